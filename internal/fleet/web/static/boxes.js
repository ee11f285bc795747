// Boxes: the list in pages, and one box with the picture that it shows of itself.
import { get } from './api.js';
import { h, count, percent, bytes, when, time, ago, link, query, section, facts, pill, span, plural } from './ui.js';
const b = window.boxd;
const page = 50;

const field = (id, label, el) => h('div', { class: 'field' }, [h('label', { for: id }, [label]), el]);

export const list = {
  title: () => 'Boxes',
  every: 10000,
  load: async p => {
    const [boxes, o] = await Promise.all([get('/data/boxes' + query({ ...p, limit: page })), get('/data/overview')]);
    return { boxes, o };
  },
  render({ boxes, o }, p) {
    const option = (v, t, now) => h('option', { value: v, selected: v === (now || '') ? '' : null }, [t]);
    const pick = (id, label, all, now) => field(id, label, h('select', { id, name: id }, [option('', 'all', now), ...all.map(([v, t]) => option(v, t, now)),
      ...(now && !all.some(([v]) => v === now) ? [option(now, now, now)] : [])]));
    return [section('boxes', 'Boxes', [
      h('form', { class: 'filter', 'data-form': 'filter', 'data-keep': '', role: 'search', 'aria-label': 'Filter boxes' }, [
        field('q', 'Id begins with', h('input', { id: 'q', name: 'q', value: p.q || '', autocomplete: 'off', spellcheck: 'false' })),
        pick('state', 'State', [['online', 'online'], ['offline', 'offline'], ['at-risk', 'deadline in danger'], ['revoked', 'revoked']], p.state),
        pick('group', 'Group', o.groups.filter(g => g.name).map(g => [g.name, g.name]), p.group),
        pick('version', 'Software', o.versions.filter(v => v.name).map(v => [v.name, v.name]), p.version),
        pick('code', 'Alert', o.alerts.map(a => [a.code, a.code]), p.code),
        h('button', { type: 'submit' }, ['Show']),
      ]),
      h('p', { class: 'muted', role: 'status' }, [boxes.more ? (Object.keys(p).some(k => p[k] && k !== 'after') ? 'More than ' + count(boxes.total) : count(o.boxes)) + ' boxes' : plural(boxes.total, 'box', 'boxes'), p.lacking ? ' that lack the asset ' + p.lacking.slice(0, 8) : '', boxes.total > boxes.boxes.length ? `, ${boxes.boxes.length} of them here` : '']),
      boxes.boxes.length ? table(boxes.boxes) : h('p', { class: 'empty' }, ['No box is like that.']),
      h('p', { class: 'pages' }, [p.after && link('#/boxes' + query({ ...p, after: '' }), 'First page'), boxes.next && link('#/boxes' + query({ ...p, after: boxes.next }), 'Next page')].filter(Boolean)),
    ], { wide: true, level: 'h1' })];
  },
  submit: (_, v) => { location.hash = '#/boxes' + query(v); },
};

function table(list) {
  const now = Date.now();
  const th = (t, n) => h('th', { scope: 'col', class: n ? 'n' : null }, [t]);
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'List of boxes' }, [h('table', {}, [
    h('thead', {}, [h('tr', {}, [th('Box'), th('State'), th('Group'), th('Assets', 1), th('On the way', 1), th('Disk', 1), th('Spared the origin', 1), th('Software'), th('Warnings')])]),
    h('tbody', {}, list.map(x => h('tr', { 'data-key': x.id }, [
      h('th', { scope: 'row' }, [link('#/boxes/' + encodeURIComponent(x.id), x.id)]),
      h('td', {}, [h('span', { class: 'dot ' + (x.online ? 'on' : 'off') }), x.revoked ? 'revoked' : x.online ? 'online' : x.last_seen ? 'silent ' + ago(x.last_seen, now).replace(' ago', '') : 'never seen']),
      h('td', {}, [x.group]), h('td', { class: 'n' }, [count(x.holdings)]),
      h('td', { class: 'n' + (x.at_risk ? ' late' : '') }, [count(x.unfinished) + (x.at_risk ? ' !' : '')]),
      h('td', { class: 'n' }, [percent(x.disk_used, x.disk_quota)]), h('td', { class: 'n' }, [percent(x.lan + x.peer, x.lan + x.peer + x.origin)]),
      h('td', {}, [x.software || '–']), h('td', { class: x.codes ? 'warned' : 'muted' }, [x.codes ? x.codes.split(',').join(', ') : 'none']),
    ]))),
  ])]);
}

// snapshot is the box as its own page has it, from what it reported and proved.
function snapshot(x) {
  const labels = new Map(x.labels.map(a => [a.id, a])), r = x.report;
  const none = { lan: 0, peer: 0, origin: 0 };
  const assets = (r?.assets || []).map(a => ({ ...(labels.get(a.id) || { name: a.id.slice(0, 8) }), ...a, length: a.length, bytes: { ...none, ...a.bytes } }));
  for (const held of x.ready || []) {
    const l = labels.get(held.id) || { name: held.id.slice(0, 8), length: 0 };
    assets.push({ ...l, id: held.id, state: 'ready', verified: l.length, bytes: none, since: held.since });
  }
  const disk = r?.disk || {};
  return {
    assets, campaigns: x.campaigns.map(c => ({ windows: [], ...c, windows: (c.windows || []).map(w => ({ days: [], ...w })) })),
    home: x.home || [], fetch: { bytes: { lan: x.lan, peer: x.peer, origin: x.origin }, courier_of: x.courier_of || 0, rates: { peer: 0, origin: 0 } },
    cache: { quota_bytes: disk.quota || x.disk_quota, effective_quota_bytes: disk.quota || x.disk_quota },
  };
}

const words = { accepted: 'It will be fetched', fetching: 'On its way', verified: 'All there, being finished', ready: 'Here', rejected: 'Not taken', failed: 'Failed' };

function asset(a, now) {
  const pct = a.length ? Math.floor(1000 * a.verified / a.length) / 10 : 0, got = a.bytes.lan + a.bytes.peer + a.bytes.origin;
  const scale = got ? pct / Math.max(got, a.verified || 1) : 0, part = k => h('i', { class: k, 'data-width': a.bytes[k] * scale });
  const say = [a.why || words[a.state] || a.state, a.state === 'ready' && a.since && 'since ' + when(time(a.since), now), a.code, a.role === 'courier' && 'it carries it for its home', bytes(a.length)];
  return h('li', { 'data-key': a.id }, [
    h('div', {}, [h('p', { class: 'name' }, [a.name, h('small', {}, [[a.publisher, a.version].filter(Boolean).join(', version ')])]),
      h('p', { class: 'say' }, [say.filter(Boolean).join(' · '), a.at_risk ? h('span', { class: 'late' }, [' The deadline is in danger.']) : null])]),
    h('div', { class: 'do' }, [h('span', { class: 'pct' }, [pct + ' %'])]),
    a.state === 'ready' ? null : h('div', { class: 'bar', role: 'progressbar', 'aria-label': a.name, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': pct },
      [part('lan'), part('peer'), part('origin'), h('i', { class: 'rest', 'data-width': Math.max(0, pct - got * scale) })]),
  ]);
}

function sentence(x, snap) {
  if (x.revoked) { return `It was revoked ${when(time(x.revoked), time(x.now))}: it is in no count, and nobody talks to it.`; }
  const coming = snap.assets.filter(a => a.state !== 'ready');
  if (!x.online) { return x.last_seen ? `Nothing was heard of it since ${when(time(x.last_seen), time(x.now))}.` : 'It enrolled and never reported.'; }
  if (x.report?.paused) { return 'It is paused.'; }
  const here = Math.max(x.holdings, (x.ready || []).length + (x.more_ready || 0));
  return coming.length ? `${plural(coming.length, 'asset is', 'assets are')} on the way; ${count(here)} here.` : here ? `All that it should hold is here: ${plural(here, 'asset')}.` : 'It holds nothing yet.';
}

export const one = {
  title: x => x?.id || 'Box',
  every: 5000,
  load: async p => { const x = await get('/data/boxes/' + encodeURIComponent(p.id)); x.snap = snapshot(x); return x; },
  render(x) {
    const now = time(x.now), snap = x.snap, got = x.lan + x.peer + x.origin, r = x.report;
    const part = k => h('i', { class: k, 'data-width': got ? 100 * x[k] / got : 0 });
    return [
      h('div', { class: 'hero wide' }, [
        h('p', { class: 'crumb' }, [link('#/boxes', 'Boxes'), ' · ', link('#/boxes' + query({ group: x.group }), x.group || 'no group')]),
        h('div', { class: 'headline' }, [h('h1', {}, [x.id]), pill(x.revoked ? 'revoked' : x.online ? 'online' : 'offline', x.online ? 'idle' : 'attention')]),
        h('p', { class: 'lead' }, [sentence(x, snap)]),
        facts([
          [x.online ? 'Online since' : 'Last heard of', x.online ? ago(x.since, now).replace(' ago', '') : ago(x.last_seen, now), x.report ? 'reported ' + ago(x.reported_at, now) : 'no report yet'],
          ['Software', x.software || '–', `catalog ${count(x.catalog_version)}`],
          ['Disk', percent(x.disk_used, x.disk_quota), `${bytes(x.disk_used)} of ${bytes(x.disk_quota)}`],
          ['Spared the origin', percent(x.lan + x.peer, got), bytes(x.lan + x.peer)],
          ['Home', r ? plural((r.household || 0) + 1, 'box', 'boxes') : '–', r?.traffic?.sent_lan ? 'gave the home ' + bytes(r.traffic.sent_lan) : null],
          ['Clock', r && !r.clock_trusted ? 'not trusted' : Math.abs(x.clock_skew_ms) < 1000 ? 'right' : span(Math.abs(x.clock_skew_ms) / 1000) + ' off', r?.cert_expires ? 'certificate until ' + when(time(r.cert_expires), now) : null],
        ]),
      ]),
      x.alerts?.length ? section('health', 'What needs attention', [h('ul', { class: 'warnings' }, x.alerts.map(a => h('li', { class: a.severity }, [
        h('p', { class: 'what' }, [a.text || a.code]), h('p', { class: 'since' }, [`${a.code} · ${when(time(a.since), now)}`])])))]) : null,
      section('assets', 'Here and coming', [
        snap.assets.length ? h('ul', { class: 'assets' }, snap.assets.slice(0, 40).map(a => asset(a, now))) : h('p', { class: 'empty' }, ['Nothing yet.']),
        snap.assets.length > 40 || x.more_ready ? h('p', { class: 'muted' }, [`and ${count(Math.max(0, snap.assets.length - 40) + (x.more_ready || 0))} more`]) : null], { wide: true }),
      x.home?.length ? section('home', 'Who gave what to whom in its home', [h('div', { id: 'home-chart', class: 'chart', 'data-keep': '' })], { wide: true }) : null,
      section('day', 'The next 24 hours', [h('div', { id: 'day-chart', class: 'chart', 'data-keep': '' })]),
      section('disk', 'The cache', [h('div', { id: 'disk-chart', class: 'chart', 'data-keep': '' })]),
      section('source', 'Where its bytes came from', [
        h('div', { class: 'bar tall', role: 'img', 'aria-label': `from the home ${bytes(x.lan)}, from other homes ${bytes(x.peer)}, from the origin ${bytes(x.origin)}` }, [part('lan'), part('peer'), part('origin')]),
        h('ul', { class: 'legend' }, [['lan', 'from the home'], ['peer', 'from other homes'], ['origin', 'from the origin']].map(([k, t]) => h('li', { class: 'c-' + k }, [`${t}: ${bytes(x[k])}`])))]),
      section('history', 'What happened', [x.history.length ? h('ol', { class: 'history', tabindex: '0', 'aria-label': 'Events, newest first' }, x.history.map(e => h('li', { 'data-key': String(e.seq) }, [
        h('time', { datetime: e.at }, [when(time(e.at), now)]), h('b', {}, [e.kind]), h('span', {}, [e.text || ''])]))) : h('p', { class: 'empty' }, ['Nothing yet.'])]),
    ].filter(Boolean);
  },
  after(x) {
    b.day(document.getElementById('day-chart'), x.snap, null, time(x.now));
    b.disk(document.getElementById('disk-chart'), x.snap);
    const home = document.getElementById('home-chart');
    if (home) { b.home(home, x.snap); }
  },
  asOf: x => time(x.now),
};
