// Campaigns: the list, and one with the curve of its arrivals against its deadline.
import { get, post, may } from './api.js';
import { h, count, percent, bytes, rate as mbit, when, time, ago, link, query, section, facts, pill, shares, parts, legend, states, dialog, toast, span, signing } from './ui.js';
import { campaignRow } from './overview.js';
import { arrival, week } from './curves.js';

const page = 50;

export const list = {
  title: () => 'Campaigns',
  every: 5000,
  load: p => get('/data/campaigns' + query({ after: p.after, limit: page })),
  render(all, p) {
    const now = Date.now();
    return [section('campaigns', 'Campaigns', [
      all.length ? h('ul', { class: 'rows' }, all.map(c => campaignRow(c, now))) : h('p', { class: 'empty' }, [p.after ? 'No older ones.' : 'No campaign yet.']),
      h('p', { class: 'pages' }, [p.after && link('#/campaigns', 'Newest'), all.length === page && link('#/campaigns' + query({ after: all.at(-1).id }), 'Older')].filter(Boolean)),
    ], { wide: true, level: 'h1', extra: link('#/publish', 'New campaign') })];
  },
};

const hold = d => {
  const m = /^(?:(\d+)h)?(?:(\d+)m)?/.exec(d || '');
  return m && (m[1] || m[2]) ? span((+(m[1] || 0) * 60 + +(m[2] || 0)) * 60) : d;
};

function ladder(c) {
  const st = c.record.staged;
  if (!st) { return null; }
  return section('stages', 'Stages', [
    h('ol', { class: 'ladder' }, st.stages.map((g, i) => {
      const at = i < st.stage ? 'done' : i === st.stage ? 'here' : 'next';
      return h('li', { class: at, 'aria-current': i === st.stage ? 'step' : null }, [
        h('b', {}, [g.per_mille / 10 + ' %']),
        h('small', {}, [at === 'here' ? 'since ' + when(time(st.since), time(c.now)) : at === 'done' ? 'done' : 'waits', g.hold && g.hold !== '0s' ? `, at least ${hold(g.hold)}` : '']),
      ]);
    })),
    h('p', { class: 'muted' }, [`It widens when ${percent(st.success, 1)} of the stage's boxes that can be reached have it, and pauses when more than ${percent(st.max_errors, 1)} fail.`]),
  ], { wide: true });
}

function windowWords(w) {
  const rate = w.rate_bytes_per_second;
  return `${w.days?.length ? w.days.join(', ') : 'every day'} ${w.from}–${w.to}` + (rate === 0 ? ', stopped' : rate ? `, at most ${mbit(rate)}` : '');
}

function details(c) {
  const r = c.record, o = r.origin || {};
  const row = (k, v) => v ? [h('dt', {}, [k]), h('dd', {}, [v])] : [];
  return h('dl', { class: 'details' }, [
    ...row('Group', link('#/boxes' + query({ group: c.group }), c.group)),
    ...row('Created', `${when(time(c.created), time(c.now))} by ${r.by}`),
    ...row('Not before', r.not_before && when(time(r.not_before), time(c.now))),
    ...row('Kept until', r.keep_until ? when(time(r.keep_until), time(c.now)) : 'the campaign ends'),
    ...row('Priority', r.priority && String(r.priority)),
    ...row('Windows', r.windows?.length ? r.windows.map(windowWords).join('; ') : 'any time'),
    ...row('Origin', o.never ? 'never' : o.delay && o.delay !== '0s' ? `after ${hold(o.delay)} with peers alone` : 'when peers are not enough'),
    ...row('After the deadline', r.missed_stops ? 'what is not there is given up' : 'it still completes'),
    ...row('Id', r.id),
  ]);
}

export const one = {
  title: c => c?.name || 'Campaign',
  every: 3000,
  load: p => get('/data/campaigns/' + encodeURIComponent(p.id)),
  render(c) {
    const n = c.counts, now = time(c.now), due = time(c.deadline), ops = may('operator') && c.state !== 'aborted' && c.state !== 'ended';
    const b = (act, text, cls) => h('button', { type: 'button', class: cls || 'quiet', 'data-do': act }, [text]);
    return [
      h('div', { class: 'hero wide' }, [
        h('p', { class: 'crumb' }, [link('#/campaigns', 'Campaigns')]),
        h('div', { class: 'headline' }, [
          h('h1', {}, [c.name]), pill(c.state, states[c.state]),
          h('div', { class: 'buttons' }, ops ? [c.state === 'drafted' ? b('sign', 'Sign it') : c.state === 'paused' ? b('resume', 'Resume', 'primary') : b('pause', 'Pause'), b('abort', 'Abort', 'quiet danger')].filter(Boolean) : []),
        ]),
        c.state === 'drafted' && h('p', { class: 'why' }, ['It waits for its signature: the campaigns key is not on the server. No box knows of it yet.']),
        c.why && h('p', { class: 'why' }, [c.why]),
        facts([
          ['Arrived', n ? percent(n.ready, n.included) : '…', n && `${count(n.ready)} of ${count(n.included)} boxes`],
          ['On the way', n ? count(n.working) : '…', 'boxes'],
          ['Offline', n ? count(n.offline) : '…', 'counted when they return'],
          ['Failed', n ? count(n.failed) : '…', 'boxes', n?.failed ? 'bad' : ''],
          ['In danger', n ? count(n.at_risk) : '…', 'may miss the deadline', n?.at_risk ? 'warn' : ''],
          ['Deadline', due ? when(due, now) : 'none', due ? due > now ? 'in ' + span((due - now) / 1000) : 'has passed' : null, due && due < now && n && n.ready < n.included ? 'bad' : ''],
        ]),
        n && shares(n, n.included, 'So far'),
        n && legend(Object.entries(parts).map(([k, t]) => ['c-' + k, t])),
      ].filter(Boolean)),
      section('curve', 'Arrival', [h('div', { id: 'curve-chart', class: 'chart', 'data-keep': '' }), h('p', { id: 'curve-words', class: 'muted', 'data-keep': '' })], { wide: true }),
      ladder(c),
      section('when', 'When the access line may be used', [h('div', { id: 'week-chart', class: 'chart', 'data-keep': '' }), h('p', { id: 'week-words', class: 'muted', 'data-keep': '' })]),
      section('assets', 'What it brings', [h('ul', { class: 'plain' }, c.assets.map(a => h('li', {}, [
        h('b', {}, [a.name]), ' ', h('span', { class: 'muted' }, [[a.version, a.publisher, bytes(a.length)].filter(Boolean).join(' · ')]), ' ',
        link('#/boxes' + query({ group: c.group, lacking: a.id }), 'who lacks it')]))), details(c)]),
      n && h('p', { class: 'muted wide' }, [`Counted ${ago(n.at)}.`]),
    ].filter(Boolean);
  },
  after(c) {
    document.getElementById('curve-words').textContent = arrival(document.getElementById('curve-chart'), c);
    document.getElementById('week-words').textContent = week(document.getElementById('week-chart'), c.record);
  },
  asOf: c => time(c.now),
  actions: {
    pause: (_, reload, c) => change(c, reload, 'paused', {
      title: `Pause “${c.name}”?`, yes: 'Pause', said: 'Paused.',
      words: 'Boxes keep what they have and fetch nothing more until it is resumed. What has arrived still plays.',
    }),
    resume: (_, reload, c) => change(c, reload, 'running', { title: `Resume “${c.name}”?`, yes: 'Resume', said: 'It goes on.', words: 'Boxes go on from where they stopped.' }),
    sign: (_, reload, c) => change(c, reload, 'running', { title: `Sign “${c.name}”?`, yes: 'Draft it', said: 'Signed.', words: 'A new draft of it is made, as the catalog is now.' }),
    abort: (_, reload, c) => change(c, reload, 'aborted', {
      title: `Abort “${c.name}”?`, yes: 'Abort it', said: 'Aborted.', danger: true, confirm: c.name,
      words: 'It leaves the catalog for good: boxes stop fetching and may delete what they have of it. This cannot be undone.',
    }),
  },
};

async function change(c, reload, state, { title, yes, words, said, danger, confirm }) {
  let done = await dialog({
    title, yes, danger,
    body: [h('p', {}, [words]),
      h('label', { for: 'why' }, [state === 'running' ? 'Note for the record (optional)' : 'Why, for the record']), h('input', { id: 'why', name: 'why', maxlength: 200, autocomplete: 'off' }),
      ...(confirm ? [h('label', { for: 'sure' }, [`Type “${confirm}” to confirm`]), h('input', { id: 'sure', name: 'sure', autocomplete: 'off' })] : [])],
    act: async v => {
      if (confirm && v.sure.trim() !== confirm.trim()) { throw new Error('The name is not the same.'); }
      return post(`/api/v1/campaigns/${encodeURIComponent(c.id)}/state?draft=true`, { state, why: v.why });
    },
  });
  if (!done) { return; }
  if (done.draft) {
    const back = h('input', { id: 'signed', name: 'signed', type: 'file', accept: '.json,application/json', required: '' });
    const s = signing(done.draft, c.id, 'campaigns.pem', 'the campaigns key', back);
    done = await dialog({
      title: 'Sign the change', yes: 'Import it',
      body: [h('p', {}, ['The campaigns key is not on the server: boxes learn of it when it is signed.']), s.steps],
      act: async v => post('/data/drafts', await v.signed.text()),
    });
    s.done();
  }
  if (done) { toast(said); }
  await reload();
}
