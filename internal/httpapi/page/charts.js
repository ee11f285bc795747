'use strict';
// The pictures of the status page, drawn as SVG at the size that they have on the screen.
(function (b) {
  var s = b.s, big = function () { return window.innerWidth >= 1800 ? 1.35 : 1; };

  function sized(el, height) {
    var w = Math.max(240, el.clientWidth), h = Math.round(height * big());
    var svg = s('svg', { viewBox: '0 0 ' + w + ' ' + h, height: h, role: 'img' });
    return { svg: svg, w: w, h: h };
  }
  function put(el, c, label) {
    c.svg.setAttribute('aria-label', label);
    b.clear(el).appendChild(c.svg);
  }
  function cut(text, px) {
    var n = Math.floor(px / (7.6 * big()));
    return n < 2 ? '' : text.length <= n ? text : text.slice(0, n - 1) + '…';
  }
  function niceTop(mbit) {
    var p = Math.pow(10, Math.floor(Math.log(Math.max(mbit, 1)) / Math.LN10)), steps = [1, 2, 2.5, 5, 10];
    for (var i = 0; i < steps.length; i++) { if (steps[i] * p >= mbit) { return steps[i] * p; } }
    return 10 * p;
  }

  // flow: throughput by source over time, stacked.
  b.flow = function (el, series, now, length) {
    var c = sized(el, 200), left = 46 * big(), bottom = 22 * big(), H = c.h - bottom, W = c.w - left;
    var from = now - length, kinds = ['lan', 'peer', 'origin'];
    var pts = series.samples.map(function (p) {
      var step = series.step_seconds;
      return { t: b.time(p.t), lan: p.lan / step, peer: p.peer / step, origin: p.origin / step };
    }).filter(function (p) { return p.t >= from && p.t <= now + 5000; });
    var peak = 0, moved = 0;
    pts.forEach(function (p) {
      peak = Math.max(peak, p.lan + p.peer + p.origin);
      moved += (p.lan + p.peer + p.origin) * series.step_seconds;
    });
    var top = niceTop(peak * 8 / 1e6), x = function (t) { return left + W * (t - from) / length; };
    var y = function (v) { return 8 + (H - 8) * (1 - v * 8 / 1e6 / top); };
    [0, 0.5, 1].forEach(function (f) {
      var gy = y(f * top * 1e6 / 8);
      c.svg.appendChild(s('line', { 'class': 'grid', x1: left, x2: c.w, y1: gy, y2: gy }));
      c.svg.appendChild(s('text', { x: left - 6, y: gy + 4, 'text-anchor': 'end', text: '' + +(f * top).toPrecision(3) }));
    });
    c.svg.appendChild(s('text', { x: left + 4, y: 20 * big(), text: 'Mbit/s' }));
    var ticks = c.w < 420 ? 3 : 5;
    for (var i = 0; i <= ticks; i++) {
      var t = from + length * i / ticks;
      var anchor = i === 0 ? 'start' : i === ticks ? 'end' : 'middle';
      c.svg.appendChild(s('text', { x: x(t), y: c.h - 4, 'text-anchor': anchor, text: i === ticks ? 'now' : b.clock(t) }));
    }
    var base = pts.map(function () { return 0; });
    kinds.forEach(function (k) {
      if (!pts.length) { return; }
      var up = [], step = series.step_seconds * 1000;
      pts.forEach(function (p, j) {
        var x0 = Math.max(left, x(p.t - step)), x1 = x(p.t), a = base[j], z = a + p[k];
        up.push(x0.toFixed(1) + ',' + y(z).toFixed(1), x1.toFixed(1) + ',' + y(z).toFixed(1));
        base[j] = z;
      });
      var back = [];
      for (var q = pts.length - 1; q >= 0; q--) {
        var pa = base[q] - pts[q][k];
        back.push(x(pts[q].t).toFixed(1) + ',' + y(pa).toFixed(1), Math.max(left, x(pts[q].t - step)).toFixed(1) + ',' + y(pa).toFixed(1));
      }
      c.svg.appendChild(s('polygon', { 'class': k, points: up.concat(back).join(' ') }));
    });
    put(el, c, moved > 0 ? 'Received ' + b.bytes(moved) + ', at most ' + b.rate(peak) + '.' : 'Nothing was received in this time.');
    if (!moved) { el.appendChild(b.h('p', { 'class': 'tip', id: el.id + '-quiet', text: 'Nothing has moved in this time.' })); }
    var quiet = el.querySelector('.tip');
    if (quiet) { quiet.style.left = left + 12 + 'px'; quiet.style.top = H / 2 + 'px'; }
    hover(el, c, pts, x, left);
  };

  function hover(el, c, pts, x, left) {
    if (!pts.length) { return; }
    var tip = null, line = null;
    c.svg.addEventListener('mousemove', function (e) {
      var box = c.svg.getBoundingClientRect(), px = (e.clientX - box.left) * c.w / box.width, best = null;
      pts.forEach(function (p) { if (!best || Math.abs(x(p.t) - px) < Math.abs(x(best.t) - px)) { best = p; } });
      if (!best || px < left) { return; }
      b.hovering = true;
      if (!tip) {
        tip = el.appendChild(b.h('div', { 'class': 'tip' }));
        line = c.svg.appendChild(s('line', { 'class': 'now', y1: 8, y2: c.h - 22 }));
      }
      line.setAttribute('x1', x(best.t)); line.setAttribute('x2', x(best.t));
      b.set(tip, b.clock(best.t) + '  home ' + b.rate(best.lan) + ', other homes ' + b.rate(best.peer) + ', operator ' + b.rate(best.origin));
      tip.style.left = Math.max(0, Math.min(px + 12, c.w - tip.offsetWidth)) + 'px'; tip.style.top = '0px';
    });
    c.svg.addEventListener('mouseleave', function () {
      b.hovering = false;
      if (tip) { el.removeChild(tip); c.svg.removeChild(line); tip = line = null; }
    });
  }

  // openings lists when a campaign's windows are open between two times.
  function openings(campaign, from, to) {
    var list = [];
    if (campaign.paused) { return list; }
    if (!campaign.windows.length) { list.push([from, to]); }
    campaign.windows.forEach(function (w) {
      var f = w.from.split(':'), t = w.to.split(':'), a = +f[0] * 60 + +f[1], z = +t[0] * 60 + +t[1];
      if (z <= a) { z += 1440; }
      var day0 = Math.floor(b.wall(from).getTime() / 864e5) - 1;
      for (var d = day0; d < day0 + 4; d++) {
        var name = b.days[new Date(d * 864e5).getUTCDay()];
        if (w.days.length && w.days.indexOf(name) < 0) { continue; }
        var start = d * 864e5 - b.offset * 1000 + a * 6e4, end = start + (z - a) * 6e4;
        if (end > from && start < to) { list.push([Math.max(start, from), Math.min(end, to)]); }
      }
    });
    var begins = b.time(campaign.not_before);
    return list.map(function (o) { return [Math.max(o[0], begins), o[1]]; }).filter(function (o) { return o[1] > o[0]; });
  }

  // day: the windows of the coming day, and what runs in them.
  b.day = function (el, snap, day, now) {
    var k = big(), camps = snap.campaigns.slice(0, 6), row = 40 * k, top = 20 * k;
    if (!camps.length) { b.clear(el).appendChild(b.h('p', { 'class': 'empty', text: 'No campaign is waiting.' })); return; }
    var c = sized(el, (camps.length + 1) * 40 + 26), from = Math.floor(now / 36e5) * 36e5, length = 864e5;
    var x = function (t) { return c.w * Math.min(Math.max((t - from) / length, 0), 1); };
    var names = {}, said = [];
    snap.assets.forEach(function (a) { names[a.id] = a.name; });
    var every = c.w < 420 ? 6 : c.w < 700 ? 4 : 3;
    for (var h = 0; h <= 24; h += every) {
      var tx = x(from + h * 36e5);
      c.svg.appendChild(s('line', { 'class': 'grid', x1: tx, x2: tx, y1: 6 * k, y2: c.h - 20 * k }));
      c.svg.appendChild(s('text', { x: tx, y: c.h - 5 * k, 'text-anchor': h === 0 ? 'start' : h >= 24 ? 'end' : 'middle', text: b.clock(from + h * 36e5) }));
    }
    c.svg.appendChild(s('line', { 'class': 'now', x1: x(now), x2: x(now), y1: 6 * k, y2: c.h - 20 * k }));
    var y = top;
    c.svg.appendChild(s('text', { 'class': 'strong halo', x: 0, y: y - 4 * k, text: 'The access line' }));
    c.svg.appendChild(s('rect', { 'class': 'lane', x: 0, y: y, width: c.w, height: 14 * k, rx: 4 }));
    ((day && day.slots) || []).forEach(function (slot) {
      if (!slot.active.length) { return; }
      var a = x(b.time(slot.from)), z = x(b.time(slot.to)), what = slot.active.map(function (id) { return names[id] || id.slice(0, 8); }).join(', ');
      said.push(what + ' from ' + b.clock(b.time(slot.from)) + ' to ' + b.clock(b.time(slot.to)));
      c.svg.appendChild(s('rect', { 'class': 'slot', x: a, y: y, width: Math.max(3, z - a), height: 14 * k, rx: 4 }, [s('title', { text: what })]));
      if (z - a > 60) { c.svg.appendChild(s('text', { 'class': 'on', x: a + 6, y: y + 11 * k, text: cut(what, z - a - 8) })); }
    });
    camps.forEach(function (camp) {
      y += row;
      var due = b.time(camp.deadline), note = camp.paused ? ' (paused)' : due ? ' · due ' + b.when(due, now) : '';
      c.svg.appendChild(s('text', { 'class': 'strong halo', x: 0, y: y - 4 * k, text: cut(camp.name, c.w - 7.6 * k * note.length) + note }));
      c.svg.appendChild(s('rect', { 'class': 'lane', x: 0, y: y, width: c.w, height: 10 * k, rx: 4 }));
      openings(camp, from, from + length).forEach(function (o) {
        c.svg.appendChild(s('rect', { 'class': 'win', x: x(o[0]), y: y, width: Math.max(2, x(o[1]) - x(o[0])), height: 10 * k, rx: 4 }, [s('title', { text: 'open ' + b.clock(o[0]) + ' to ' + b.clock(o[1]) })]));
        said.push(camp.name + ' may run from ' + b.clock(o[0]) + ' to ' + b.clock(o[1]));
      });
      if (due > from && due < from + length) {
        var dx = x(due);
        c.svg.appendChild(s('rect', { 'class': 'flag', x: dx - 2 * k, y: y - 3 * k, width: 4 * k, height: 16 * k, rx: 2 }, [s('title', { text: 'deadline' })]));
      }
    });
    put(el, c, said.length ? said.slice(0, 12).join('; ') + '.' : 'Nothing is planned over the access line.');
    if (snap.campaigns.length > camps.length) {
      el.appendChild(b.h('p', { 'class': 'muted', text: 'and ' + (snap.campaigns.length - camps.length) + ' more campaigns' }));
    }
  };

  // squarify lays items of value out in a rectangle (Bruls, Huizing, van Wijk).
  function squarify(items, x, y, w, h, place) {
    var total = items.reduce(function (n, i) { return n + i.value; }, 0), list = items.slice();
    if (!total || w <= 0 || h <= 0) { return; }
    var scale = w * h / total;
    while (list.length) {
      var side = Math.min(w, h), row = [], sum = 0, worst = Infinity;
      while (list.length) {
        var v = list[0].value * scale, next = sum + v, thick = next / side, bad = 0;
        row.concat(list[0]).forEach(function (r) { var len = r.value * scale / thick; bad = Math.max(bad, thick / len, len / thick); });
        if (row.length && bad > worst) { break; }
        worst = bad; sum = next; row.push(list.shift());
      }
      var t = sum / side, at = 0;
      row.forEach(function (r) {
        var len = r.value * scale / t;
        if (w >= h) { place(r, x, y + at, t, len); } else { place(r, x + at, y, len, t); }
        at += len;
      });
      if (w >= h) { x += t; w -= t; } else { y += t; h -= t; }
    }
  }

  // disk: the quota as a map; an asset's area is its size, what has arrived is filled.
  b.disk = function (el, snap) {
    var c = sized(el, 220), k = big(), used = 0;
    var items = snap.assets.filter(function (a) { return a.length > 0 && a.verified > 0; }).map(function (a) {
      used += a.length;
      return { value: a.length, asset: a };
    });
    items.sort(function (p, q) { return q.value - p.value; });
    var shown = items.slice(0, 60), small = items.slice(60), quota = snap.cache.effective_quota_bytes || snap.cache.quota_bytes;
    if (small.length) {
      shown.push({ value: small.reduce(function (n, i) { return n + i.value; }, 0), asset: { name: small.length + ' smaller ones', length: 1, verified: 1, state: 'more' } });
      shown[60].asset.length = shown[60].asset.verified = shown[60].value;
      shown.sort(function (p, q) { return q.value - p.value; });
    }
    var free = Math.max(quota - used, 0), said = [];
    var usedWidth = quota > 0 ? Math.max(items.length ? 0.22 : 0, Math.min(used / Math.max(quota, used), 1)) * c.w : c.w;
    squarify(shown, 0, 0, usedWidth, c.h, function (it, x, y, w, h) {
      var a = it.asset, label = a.name + ', ' + b.bytes(a.length);
      said.push(label);
      c.svg.appendChild(s('rect', { 'class': 'tile', x: x, y: y, width: w, height: h, rx: 6 }));
      c.svg.appendChild(s('rect', { 'class': 'tile ' + a.state, x: x, y: y + h * (1 - a.verified / a.length), width: w, height: h * a.verified / a.length, rx: 6 }, [s('title', { text: label })]));
      if (w > 76 * k && h > 38 * k) {
        var on = a.verified / a.length > 0.6 ? 'on' : 'off strong';
        c.svg.appendChild(s('text', { 'class': on, x: x + 9, y: y + h - 22 * k, text: cut(a.name, w - 16) }));
        c.svg.appendChild(s('text', { 'class': on, x: x + 9, y: y + h - 8 * k, text: b.bytes(a.length) }));
      }
    });
    if (c.w - usedWidth > 2) {
      c.svg.appendChild(s('rect', { 'class': 'tile free', x: usedWidth, y: 0, width: c.w - usedWidth, height: c.h, rx: 6 }));
      c.svg.appendChild(s('text', { x: usedWidth + 12, y: 24 * k, text: cut('free for more: ' + b.bytes(free), c.w - usedWidth - 16) }));
    }
    put(el, c, said.length ? 'In the cache: ' + said.slice(0, 12).join('; ') + '. Free: ' + b.bytes(free) + '.' : 'The cache is empty.');
  };

  // household is who gave what to whom in this home, as far as this box knows: its own counts, and what the others tell.
  b.household = function (snap, most) {
    var bytes = snap.fetch.bytes;
    var all = [{ id: '', name: 'this box', holds: snap.assets.filter(function (a) { return a.state === 'ready'; }).length, wan: bytes.peer + bytes.origin, carries: snap.fetch.courier_of }];
    snap.home.forEach(function (n) { all.push({ id: n.id, name: n.id, holds: n.holds, wan: n.wan_got_bytes, carries: n.courier_of, ill: n.health === 'warning' || n.health === 'critical', address: n.address, from: n }); });
    var moved = function (n) { return n.from ? n.from.received_bytes + n.from.sent_bytes : Infinity; };
    var rest = all.length - most;
    if (rest > 0) { all.sort(function (p, q) { return moved(q) - moved(p); }); all = all.slice(0, most); }
    var given = all.map(function (from) {
      return all.map(function (to) {
        if (from === to) { return 0; }
        if (!to.from) { return from.from.received_bytes; }
        if (!from.from) { return to.from.sent_bytes; }
        return (to.from.got || []).reduce(function (n, g) { return g.id === from.id ? n + g.bytes : n; }, 0);
      });
    });
    return { boxes: all, given: given, rest: Math.max(rest, 0) };
  };

  // home: the boxes of the home, what each got from outside, and what they gave each other: an arc leads to who got it.
  b.home = function (el, snap) {
    var k = big(), room = Math.max(240, el.clientWidth), hh = b.household(snap, room < 420 ? 4 : 7), n = hh.boxes.length;
    var each = room / n, w = Math.min(each - 10, 170 * k), top = 104 * k, tall = 46 * k, base = top + tall, arcs = [], said = [];
    hh.given.forEach(function (row, i) { row.forEach(function (v, j) { if (v > 0) { arcs.push({ i: i, j: j, v: v }); } }); });
    var depth = function (a) { return (34 + 26 * Math.abs(a.i - a.j) + (a.i > a.j ? 26 : 0)) * k; };
    var deepest = arcs.reduce(function (d, a) { return Math.max(d, depth(a)); }, 0);
    var c = sized(el, (base + deepest * 0.75 + 18 * k) / k), mid = c.w / 2, x = function (i) { return each * (i + 0.5); };
    var most = arcs.concat(hh.boxes.map(function (x) { return { v: x.wan }; })).reduce(function (m, a) { return Math.max(m, a.v); }, 1);
    var thick = function (v) { return v > 0 ? (1.5 + 5.5 * Math.sqrt(v / most)) * k : 1; };
    var live = snap.fetch.rates.peer + snap.fetch.rates.origin > 0;
    hh.boxes.forEach(function (box, i) {
      c.svg.appendChild(s('path', { 'class': 'edge' + (box.wan > 0 ? ' wan' : '') + (live && !box.from ? ' live' : ''), 'stroke-width': thick(box.wan), d: 'M' + mid + ' ' + 34 * k + ' L' + x(i) + ' ' + top }));
      said.push((i ? box.name : 'this box') + ' got ' + b.bytes(box.wan) + ' from outside');
    });
    c.svg.appendChild(s('rect', { 'class': 'node', x: mid - 64 * k, y: 4, width: 128 * k, height: 30 * k, rx: 15 * k }));
    c.svg.appendChild(s('text', { 'class': 'strong', x: mid, y: 24 * k, 'text-anchor': 'middle', text: 'Internet' }));
    var few = arcs.length <= 8;
    arcs.sort(function (p, q) { return depth(q) - depth(p); });
    arcs.forEach(function (a) {
      var d = depth(a), side = a.i < a.j ? 1 : -1, x0 = x(a.i) + side * w * 0.18, x1 = x(a.j) - side * w * 0.18, t = thick(a.v), h = Math.max(t, 5 * k);
      var what = hh.boxes[a.i].name + ' gave ' + hh.boxes[a.j].name + ' ' + b.bytes(a.v);
      said.push(what);
      c.svg.appendChild(s('path', { 'class': 'edge in', 'stroke-width': t, d: 'M' + x0 + ' ' + base + ' C' + x0 + ' ' + (base + d) + ' ' + x1 + ' ' + (base + d) + ' ' + x1 + ' ' + (base + h) }, [s('title', { text: what })]));
      c.svg.appendChild(s('path', { 'class': 'lan', d: 'M' + (x1 - h) + ' ' + (base + h + 2) + ' L' + (x1 + h) + ' ' + (base + h + 2) + ' L' + x1 + ' ' + base + ' Z' }));
    });
    var taken = []; // a label that would lie on another is left to the table below
    arcs.slice().sort(function (p, q) { return q.v - p.v; }).forEach(function (a) {
      var text = (a.i < a.j ? '' : '← ') + b.bytes(a.v) + (a.i < a.j ? ' →' : ''), half = text.length * 3.7 * k;
      var tx = (x(a.i) + x(a.j)) / 2, ty = base + depth(a) * 0.75 - 5 * k;
      if (!few || taken.some(function (l) { return Math.abs(l.x - tx) < l.half + half && Math.abs(l.y - ty) < 15 * k; })) { return; }
      taken.push({ x: tx, y: ty, half: half });
      c.svg.appendChild(s('text', { 'class': 'halo', x: tx, y: ty, 'text-anchor': 'middle', text: text }));
    });
    hh.boxes.forEach(function (box, i) {
      var note = box.carries ? 'carries ' + box.carries : 'holds ' + box.holds;
      if (box.ill) { note += ' · ill'; }
      if (cut(note, w - 8) !== note) { note = '' + (box.carries || box.holds); }
      c.svg.appendChild(s('rect', { 'class': 'node' + (box.from ? box.ill ? ' ill' : '' : ' self'), x: x(i) - w / 2, y: top, width: w, height: tall, rx: 8 * k }, [s('title', { text: box.name + (box.address ? ', ' + box.address : '') })]));
      c.svg.appendChild(s('text', { 'class': 'strong', x: x(i), y: top + 19 * k, 'text-anchor': 'middle', text: cut(box.name, w - 8) }));
      c.svg.appendChild(s('text', { x: x(i), y: top + 36 * k, 'text-anchor': 'middle', text: cut(note, w - 8) }));
      if (box.wan > 0) { c.svg.appendChild(s('text', { 'class': 'halo', x: x(i), y: top - 8 * k, 'text-anchor': 'middle', text: cut(b.bytes(box.wan), each - 2) })); }
    });
    put(el, c, said.join('; ') + '.');
    if (n < 2) { el.appendChild(b.h('p', { 'class': 'muted', text: 'No other box of this fleet has been found in this home.' })); }
  };
})(boxd);
