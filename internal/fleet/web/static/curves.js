// The fleet's own pictures, as SVG at the size that they have on the screen.
import { s, h, bytes, clock, when, time, span, count } from './ui.js';

function sized(el, height) {
  const w = Math.max(280, el.clientWidth);
  return { w, h: height, svg: s('svg', { viewBox: `0 0 ${w} ${height}`, height, role: 'img' }) };
}
function put(el, c, label) {
  c.svg.setAttribute('aria-label', label);
  el.replaceChildren(c.svg);
}
const dayName = t => new Date(t).toLocaleDateString('en-GB', { weekday: 'short', day: 'numeric', month: 'short' });

// ticks are at round local times, so many that they do not touch.
function ticks(from, to, width) {
  const steps = [6e4, 3e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 2592e6];
  const step = steps.find(st => (to - from) / st <= width / 90) || 2592e6;
  const zone = new Date(from).getTimezoneOffset() * 6e4, list = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) {
    list.push([t, step >= 864e5 ? dayName(t) : clock(t)]);
  }
  return list;
}
function axis(c, x, from, to, top, bottom) {
  for (const [t, text] of ticks(from, to, c.w)) {
    if (x(t) < 52 || x(t) > c.w - 24) { continue; }
    c.svg.append(s('line', { class: 'grid', x1: x(t), x2: x(t), y1: top, y2: bottom }), s('text', { x: x(t), y: c.h - 4, 'text-anchor': 'middle', text }));
  }
}
function niceTop(v) {
  const p = 1024 ** Math.floor(Math.log(Math.max(v, 1)) / Math.log(1024));
  const f = v / p;
  return p * ([1, 2, 4, 5, 10, 20, 50, 100, 200, 500, 1024].find(n => n >= f) || 1024);
}

// offload: what arrived by source over time, and the share that the origin was spared.
export function offload(el, series) {
  const c = sized(el, 220), left = 64, bottom = c.h - 22, from = time(series.from), to = time(series.to), step = series.step_seconds * 1000;
  const x = t => left + (c.w - left) * (t - from) / (to - from);
  const peak = Math.max(0, ...series.points.map(p => p.lan + p.peer + p.origin)), top = niceTop(peak);
  const y = v => 10 + (bottom - 10) * (1 - v / top);
  for (const f of [0, 0.5, 1]) {
    c.svg.append(s('line', { class: 'grid', x1: left, x2: c.w, y1: y(f * top), y2: y(f * top) }), s('text', { x: left - 8, y: y(f * top) + 4, 'text-anchor': 'end', text: peak || !f ? bytes(f * top) : '' }));
  }
  axis(c, x, from, to, 10, bottom);
  const sum = { lan: 0, peer: 0, origin: 0 };
  for (const p of series.points) {
    const t = time(p.at), x0 = Math.max(left, x(t)), w = Math.max(1, x(Math.min(t + step, to)) - x0 - 1);
    let base = 0;
    const g = s('g', {}, [s('title', { text: `${when(t, Date.now())}: ${count(p.n)} arrived; home ${bytes(p.lan)}, other homes ${bytes(p.peer)}, origin ${bytes(p.origin)}` })]);
    for (const k of ['origin', 'peer', 'lan']) {
      sum[k] += p[k];
      if (p[k]) { g.append(s('rect', { class: k, x: x0, y: y(base + p[k]), width: w, height: Math.max(0.5, y(base) - y(base + p[k])) })); }
      base += p[k];
    }
    c.svg.append(g);
  }
  const total = sum.lan + sum.peer + sum.origin, saved = sum.lan + sum.peer;
  put(el, c, total ? `${bytes(total)} arrived; ${bytes(saved)} of it did not come from the origin.` : 'Nothing arrived in this time.');
  if (!total) { el.append(h('p', { class: 'empty over', text: 'Nothing has arrived in this time.' })); }
  return { total, saved, origin: sum.origin };
}

// openTime is how long the access line may be used between two times; openUntil is when so much of it is over.
const openTime = (windows, from, to) => openings(windows, from, to).reduce((n, [a, z]) => n + z - a, 0);
function openUntil(windows, from, need) {
  for (const [a, z] of openings(windows, from, from + 30 * 864e5)) {
    if (z - a >= need) { return a + need; }
    need -= z - a;
  }
  return 0;
}

// arrival: the share of what was wished that is there, over time, against the deadline.
export function arrival(el, camp) {
  const n = camp.counts, assets = camp.assets.length || 1, wish = n ? n.included * assets : 0;
  const now = time(camp.now), start = time(camp.created), due = time(camp.deadline), step = camp.step_seconds * 1000;
  const came = camp.curve.reduce((a, p) => a + p.n, 0), before = Math.max(0, (n ? n.ready * assets : 0) - came);
  const pts = [[start, before]];
  let sum = before;
  for (const p of camp.curve) {
    const t = Math.min(time(p.at) + step, now);
    if (time(p.at) - pts.at(-1)[0] > step) { pts.push([time(p.at), sum]); }
    sum += p.n;
    pts.push([Math.max(t, start), sum]);
  }
  if (camp.state === 'running' || sum < wish) { pts.push([now, sum]); }
  const done = wish > 0 && sum >= wish, last = pts.at(-1)[0];
  let finish = 0;
  if (!done && camp.state === 'running' && wish) { // the pace of the last third of the time
    const since = now - (now - start) / 3, then = pts.findLast(p => p[0] <= since) || pts[0];
    const w = camp.record.windows, pace = (sum - then[1]) / Math.max(openTime(w, then[0], now), 6e4);
    if (pace > 0) { finish = openUntil(w, now, (wish - sum) / pace); }
  }
  const span0 = Math.max((due || last) - start, 12e4), to = Math.max(due ? due + span0 * 0.06 : 0, last + span0 * 0.02, finish && finish < start + 3 * span0 ? finish + span0 * 0.04 : 0);
  const c = sized(el, 260), left = 48, bottom = c.h - 22;
  const x = t => left + (c.w - left) * (t - start) / (to - start), y = v => 22 + (bottom - 22) * (1 - (wish ? Math.min(v / wish, 1) : 0));
  for (const f of [0, 0.25, 0.5, 0.75, 1]) {
    c.svg.append(s('line', { class: 'grid', x1: left, x2: c.w, y1: y(f * wish), y2: 22 + (bottom - 22) * (1 - f) }), s('text', { x: left - 8, y: 26 + (bottom - 22) * (1 - f), 'text-anchor': 'end', text: f * 100 + ' %' }));
    c.svg.lastChild.previousSibling.setAttribute('y1', 22 + (bottom - 22) * (1 - f));
  }
  axis(c, x, start, to, 22, bottom);
  // What came within seconds would be a hair at the edge of a chart that goes on to the deadline: it gets a step that can be seen.
  const end = Math.max(x(last), left + 10), at = (t, v) => t.toFixed(1) + ' ' + y(v).toFixed(1);
  const path = pts.map(([t, v], i) => (i ? 'L' : 'M') + at(x(t), v)).join('') + 'L' + at(end, sum);
  c.svg.append(s('path', { class: 'area', d: `${path}L${end.toFixed(1)} ${bottom}L${left} ${bottom}Z` }), s('path', { class: 'line', d: path }));
  if (finish) {
    c.svg.append(s('line', { class: 'guess', x1: x(now), y1: y(sum), x2: x(Math.min(finish, to)), y2: y(sum + (wish - sum) * (Math.min(finish, to) - now) / (finish - now)) }));
  }
  if (due) {
    const right = x(due) > c.w - 150;
    c.svg.append(s('line', { class: 'due', x1: x(due), x2: x(due), y1: 22, y2: bottom }), s('text', { class: 'due', x: x(due) + (right ? -6 : 6), y: 14, 'text-anchor': right ? 'end' : 'start', text: 'due ' + when(due, now) }));
  }
  if (now > start && now < to && !done) {
    c.svg.append(s('line', { class: 'now', x1: x(now), x2: x(now), y1: 22, y2: bottom }));
  }
  let words;
  if (!wish) { words = 'No box of the group is in it yet.'; }
  else if (done) {
    const at = camp.curve.length ? time(camp.curve.at(-1).at) : start;
    words = `Complete since ${when(at, now)}` + (due ? at <= due ? `, ${span((due - at) / 1000)} before the deadline.` : `, ${span((at - due) / 1000)} late.` : '.');
  } else if (camp.state !== 'running') { words = `It is ${camp.state} at ${Math.floor(100 * sum / wish)} %.`; }
  else if (!finish) { words = due && now > due ? `The deadline has passed and nothing arrives any more.` : 'Nothing has arrived lately.'; }
  else {
    words = `At this pace it is complete ${when(finish, now)}`;
    words += !due ? '.' : finish <= due ? `, ${span((due - finish) / 1000)} before the deadline.` : `, ${span((finish - due) / 1000)} late.`;
  }
  put(el, c, words);
  return words;
}

// openings lists when windows are open between two times; the box's own local time is taken to be the operator's.
function openings(windows, from, to) {
  if (!windows?.length) { return [[from, to]]; }
  const names = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'], list = [];
  for (const w of windows) {
    const [fh, fm] = w.from.split(':').map(Number), [th, tm] = w.to.split(':').map(Number);
    for (let d = new Date(from - 864e5); d <= to; d = new Date(d.getFullYear(), d.getMonth(), d.getDate() + 1)) {
      if (w.days?.length && !w.days.includes(names[d.getDay()])) { continue; }
      const a = +new Date(d.getFullYear(), d.getMonth(), d.getDate(), fh, fm);
      const over = th * 60 + tm <= fh * 60 + fm ? 1 : 0, z = +new Date(d.getFullYear(), d.getMonth(), d.getDate() + over, th, tm);
      if (z > from && a < to) { list.push([Math.max(a, from), Math.min(z, to)]); }
    }
  }
  list.sort((p, q) => p[0] - q[0]);
  return list.reduce((all, o) => {
    const last = all.at(-1);
    if (last && o[0] <= last[1]) { last[1] = Math.max(last[1], o[1]); } else { all.push(o); }
    return all;
  }, []);
}

// week: when the access line may be used, from today on.
export function week(el, camp, now = Date.now()) {
  const from = +new Date(new Date(now).setHours(0, 0, 0, 0)), due = time(camp.deadline);
  const days = due ? Math.min(Math.max(Math.ceil((due - from) / 864e5) + 1, 2), 10) : 7, to = from + days * 864e5;
  const c = sized(el, 64), x = t => c.w * (t - from) / (to - from);
  c.svg.append(s('rect', { class: 'lane', x: 0, y: 20, width: c.w, height: 18, rx: 4 }));
  const begin = Math.max(time(camp.not_before), from), end = camp.missed_stops && due ? Math.min(due, to) : to;
  let open = 0;
  for (const [a, z] of openings(camp.windows, Math.max(begin, now), end)) {
    open += z - a;
    c.svg.append(s('rect', { class: 'win', x: x(a), y: 20, width: Math.max(2, x(z) - x(a)), height: 18, rx: 3 }, [s('title', { text: `open ${when(a, now)} to ${when(z, now)}` })]));
  }
  for (let t = from, i = 0; t < to; t += 864e5, i++) {
    if (i && c.w / days < 70 && i % 2) { continue; }
    c.svg.append(s('line', { class: 'grid', x1: x(t), x2: x(t), y1: 20, y2: 46 }), s('text', { x: x(t) + 4, y: 58, text: i ? dayName(t) : 'today' }));
  }
  c.svg.append(s('line', { class: 'now', x1: x(now), x2: x(now), y1: 14, y2: 44 }));
  let left = open;
  if (due && due < to) {
    left = openings(camp.windows, Math.max(begin, now), Math.max(due, now)).reduce((n, [a, z]) => n + z - a, 0);
    c.svg.append(s('rect', { class: 'flag', x: x(due) - 2, y: 14, width: 4, height: 30, rx: 2 }), s('text', { class: 'due', x: Math.min(x(due) + 6, c.w - 26), y: 12, 'text-anchor': x(due) > c.w - 40 ? 'end' : 'start', text: 'due' }));
  }
  const words = camp.windows?.length
    ? `The access line may be used for ${span(left / 1000)} ${due ? 'before the deadline' : 'in the next ' + days + ' days'}.`
    : 'The access line may be used at any time.';
  put(el, c, words);
  return words;
}
