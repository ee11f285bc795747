// The fleet at a glance.
import { get } from './api.js';
import { h, count, percent, bytes, when, time, ago, plural, link, query, section, facts, pill, shares, parts, legend, states, dialog } from './ui.js';
import { offload } from './curves.js';

const meaning = {
  offline: 'nothing was heard for an hour', 'never-seen': 'enrolled and never reported', disk: 'little room is left on the disk',
  'deadline-at-risk': 'may miss a deadline', clock: 'the clock differs from the manager\u2019s',
};
const ranges = [['24', '24 hours'], ['168', '7 days'], ['720', '30 days']];
let hours = '24';

export function sentence(o) {
  const live = o.campaigns.filter(c => c.state === 'running');
  const late = live.filter(c => c.counts?.at_risk);
  const head = !o.boxes ? 'No box has enrolled yet.'
    : o.online === o.boxes ? `All ${count(o.boxes)} boxes are online.` : `${count(o.online)} of ${plural(o.boxes, 'box', 'boxes')} are online.`;
  const tail = !live.length ? 'No campaign runs.'
    : late.length ? `${plural(late.length, 'campaign')} may miss a deadline on ${plural(Math.max(...late.map(c => c.counts.at_risk)), 'box', 'boxes')}.`
    : `${plural(live.length, 'campaign runs', 'campaigns run')}, on time.`;
  return head + ' ' + tail;
}

function mood(o) {
  if (o.campaigns.some(c => c.state === 'running' && c.counts?.at_risk) || o.alerts.some(a => a.severity === 'critical')) { return ['needs attention', 'attention']; }
  if (o.campaigns.some(c => c.state === 'paused')) { return ['a campaign is paused', 'paused']; }
  return o.campaigns.some(c => c.state === 'running' && c.counts && c.counts.ready < c.counts.included) ? ['delivering', 'fetching'] : ['quiet', 'idle'];
}

export function campaignRow(c, now) {
  const n = c.counts, due = time(c.deadline);
  const stage = c.stages > 1 ? `stage ${c.stage} of ${c.stages}` : c.per_mille < 1000 ? `${c.per_mille / 10} % of the group` : '';
  return h('li', { 'data-key': c.id }, [
    h('div', { class: 'what' }, [
      h('p', { class: 'name' }, [link('#/campaigns/' + encodeURIComponent(c.id), c.name), c.state !== 'running' && pill(c.state, states[c.state])].filter(Boolean)),
      h('p', { class: 'say' }, [[c.group, stage, due && `${due < now ? 'was due' : 'due'} ${when(due, now)}`, n?.at_risk && plural(n.at_risk, 'box', 'boxes') + ' at risk', n?.failed && count(n.failed) + ' failed'].filter(Boolean).join(' · ')]),
    ]),
    h('p', { class: 'pct' }, [n ? percent(n.ready, n.included) : '…', h('small', {}, [n ? `${count(n.ready)} of ${count(n.included)}` : 'being counted'])]),
    n ? shares(n, n.included, c.name) : h('div', { class: 'bar' }),
  ]);
}

function campaigns(o, now) {
  const more = link('#/campaigns', o.more_campaigns ? `All campaigns (${o.more_campaigns} more)` : 'All campaigns');
  if (!o.campaigns.length) {
    return section('campaigns', 'Campaigns', [h('p', { class: 'empty' }, ['Nothing is on its way. ', link('#/publish', 'Publish something'), '.'])], { wide: true, extra: more });
  }
  return section('campaigns', 'Campaigns', [
    h('ul', { class: 'rows' }, o.campaigns.map(c => campaignRow(c, now))),
    legend(Object.entries(parts).map(([k, t]) => ['c-' + k, t])),
  ], { wide: true, extra: more });
}

function bars(list, total, href, name) {
  const max = Math.max(1, ...list.map(v => v.boxes));
  return h('ul', { class: 'bars' }, list.map(v => h('li', { 'data-key': v.name || v.code }, [
    h('div', {}, [link(href(v), name(v)), meaning[v.code] && h('small', {}, [meaning[v.code]])]), h('span', { class: 'n' }, [count(v.boxes)]),
    h('span', { class: 'n muted' }, [total ? percent(v.boxes, total) : ago(v.since)]),
    h('div', { class: 'bar thin', 'aria-hidden': 'true' }, [h('i', { class: v.severity || 'rest', 'data-width': 100 * v.boxes / max })]),
  ])));
}

function tail(n, what) { return n ? h('p', { class: 'muted' }, [`and ${count(n)} more ${what}`]) : null; }

export default {
  title: () => 'Overview',
  every: 5000,
  load: async () => {
    const [o, series] = await Promise.all([get('/data/overview'), get('/data/offload?hours=' + hours)]);
    return { o, series };
  },
  render({ o }) {
    const now = time(o.at), d = o.day, came = d.lan + d.peer + d.origin, [word, cls] = mood(o);
    const alerts = o.alerts.reduce((n, a) => n + a.boxes, 0);
    return [
      h('div', { class: 'hero wide' }, [
        h('p', {}, [pill(word, cls)]),
        h('h1', {}, [sentence(o)]),
        facts([
          ['Online', percent(o.online, o.boxes), `${count(o.boxes - o.online)} offline`],
          ['Deadline in danger', count(o.at_risk), 'boxes', o.at_risk ? 'bad' : ''],
          ['Alerts', count(alerts), o.alerts.length ? plural(o.alerts.length, 'kind') : 'nothing to do', alerts ? 'warn' : ''],
          ['Arrived, 24 hours', count(d.n), bytes(came)],
          ['Spared the origin', came ? percent(d.lan + d.peer, came) : '–', bytes(d.lan + d.peer) + ' saved'],
          ['Software', o.versions.length ? percent(o.versions[0].boxes, o.boxes) : '–', o.versions[0]?.name || 'unknown'],
        ]),
      ]),
      campaigns(o, now),
      section('offload', 'Where it came from', [
        legend([['c-lan', 'from the home'], ['c-peer', 'from other homes'], ['c-origin', 'from the origin']]),
        h('div', { id: 'offload-chart', class: 'chart', 'data-keep': '' }),
        h('p', { id: 'offload-words', class: 'muted', 'data-keep': '' }),
      ], { extra: h('div', { class: 'switch', role: 'group', 'aria-label': 'Time shown' }, ranges.map(([v, t]) =>
        h('button', { type: 'button', 'data-do': 'hours', 'data-arg': v, 'aria-pressed': String(v === hours) }, [t]))) }),
      section('alerts', 'What needs attention', [
        o.alerts.length ? bars(o.alerts, 0, a => '#/boxes' + query({ code: a.code }), a => a.code) : h('p', { class: 'empty' }, ['Nothing.'])]),
      section('groups', 'Groups', [
        o.groups.length ? bars(o.groups.slice(0, 12), o.boxes, g => '#/boxes' + query({ group: g.name }), g => g.name || 'no group') : h('p', { class: 'empty' }, ['No box yet.']),
        tail(Math.max(0, o.groups.length - 12) + (o.more_groups || 0), 'groups')]),
      section('versions', 'Software', [
        o.versions.length ? bars(o.versions, o.boxes, v => '#/boxes' + query({ version: v.name }), v => v.name || 'not reported yet') : h('p', { class: 'empty' }, ['No box yet.']),
        tail(o.more_versions, 'versions')]),
    ];
  },
  after({ series }) {
    const sum = offload(document.getElementById('offload-chart'), series);
    document.getElementById('offload-words').textContent = sum.total
      ? `${bytes(sum.total)} arrived; the origin was spared ${bytes(sum.saved)}, ${percent(sum.saved, sum.total)} of it.` : '';
  },
  asOf: d => time(d.o.at),
  fleet: d => d.o.fleet,
  actions: { hours(v, reload) { hours = v; return reload(); } },
};
