// Publish and schedule: a file or an asset that is there, on a group, in windows, by a deadline.
import { get, post, upload, may, me } from './api.js';
import { h, bytes, plural, section, toast, widths, signing } from './ui.js';
import { week } from './curves.js';

const days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
const stagings = {
  all: ['all boxes at once', null],
  careful: ['1 %, then 10 %, then all', [[10, '1h'], [100, '4h'], [1000, '']]],
  brisk: ['10 %, then all', [[100, '1h'], [1000, '']]],
};
const $ = id => document.getElementById(id);
const field = (id, label, el, hint) => h('div', { class: 'field' }, [h('label', { for: id }, [label]), el, hint && h('p', { class: 'muted hint', id: id + '-hint' }, [hint])]);
const input = (id, attrs) => h('input', { id, name: id, autocomplete: 'off', ...attrs });
let file = null, rows = 0;

function windowRow() {
  const n = ++rows;
  return h('fieldset', { class: 'window' }, [
    h('legend', {}, ['Window']),
    h('div', { class: 'days', role: 'group', 'aria-label': 'Days; none means every day' }, days.map(d => h('label', {}, [h('input', { type: 'checkbox', name: 'day', value: d }), d]))),
    field(`from-${n}`, 'From', h('input', { id: `from-${n}`, type: 'time', name: 'from', value: '01:00', required: '' })),
    field(`to-${n}`, 'to', h('input', { id: `to-${n}`, type: 'time', name: 'to', value: '06:00', required: '' })),
    field(`rate-${n}`, 'Mbit/s', h('input', { id: `rate-${n}`, type: 'number', name: 'rate', min: '0', step: '0.1', placeholder: 'no cap' })),
    h('button', { type: 'button', class: 'quiet small', 'aria-label': 'Remove this window', onclick: e => { e.target.closest('fieldset').remove(); preview(); } }, ['Remove']),
  ]);
}

// wish reads the form as the API takes it.
function wish() {
  const at = id => $(id).value ? new Date($(id).value).toISOString() : undefined;
  const windows = [...document.querySelectorAll('fieldset.window')].map(f => {
    const w = { from: f.querySelector('[name=from]').value, to: f.querySelector('[name=to]').value };
    const on = [...f.querySelectorAll('[name=day]:checked')].map(x => x.value), rate = f.querySelector('[name=rate]').value;
    if (on.length) { w.days = on; }
    if (rate !== '') { w.rate_bytes_per_second = Math.round(rate * 125000); }
    return w;
  });
  const c = { name: $('campaign').value.trim(), group: $('group').value, deadline: at('deadline'), not_before: at('not-before'), keep_until: at('keep-until') };
  if (windows.length) { c.windows = windows; }
  if ($('missed').checked) { c.missed_stops = true; }
  if ($('origin').value) { c.origin = $('origin').value === 'never' ? { never: true } : { delay: $('origin').value }; }
  const stages = stagings[$('staging').value][1];
  if (stages) { c.staged = { stages: stages.map(([per_mille, hold]) => hold ? { per_mille, hold } : { per_mille }), stage: 0, done: false }; }
  return c;
}

function preview() {
  if ($('preview')) { $('preview-words').textContent = week($('preview'), wish()); }
}

function keyNote(p) {
  const el = $('key-note');
  if (!p) { el.hidden = true; return; }
  el.hidden = false;
  el.className = 'note ' + (p.key_here ? 'warn' : 'good');
  el.replaceChildren(...(p.key_here
    ? [h('b', {}, ['The key of this publisher is on the server. ']), `Whoever takes over the server can publish as “${p.name}”. Keep keys of content elsewhere: then this page makes a draft, which is signed where the key is.`]
    : [h('b', {}, ['The key of this publisher is elsewhere. ']), 'The file goes to the origin and you get a draft to sign. Boxes see nothing of it before that.']));
}

function took(f) {
  file = f || null;
  $('drop-words').textContent = file ? `${file.name}, ${bytes(file.size)}` : 'Drop a file here, or choose one';
  if (file && !$('title').value) { $('title').value = file.name.replace(/\.[^.]+$/, ''); }
  if (file) { $('asset').value = ''; }
  named();
}

function named() {
  const picked = $('asset').selectedOptions[0];
  const name = $('asset').value ? picked.dataset.name : $('title').value;
  if (!$('campaign').dataset.own) { $('campaign').value = name || ''; }
  $('new').hidden = !!$('asset').value;
}

function progress(what, done, total) {
  $('work').hidden = false;
  $('work-bar').value = total ? done / total : 0;
  $('work-words').textContent = `${what} ${bytes(done)} of ${bytes(total)}`;
}

// signed waits for a draft to come back signed.
function signed(draft, id, key, whose) {
  $('draft').hidden = false;
  return new Promise(done => {
    const alert = h('p', { role: 'alert' });
    const back = h('input', { id: 'signed', type: 'file', accept: '.json,application/json', onchange: async e => {
      try {
        await post('/data/drafts', await e.target.files[0].text());
        s.done();
        $('draft').hidden = true;
        done();
      } catch (err) { alert.textContent = err.message; e.target.value = ''; }
    } });
    const s = signing(draft, id, key, whose, back);
    $('draft').replaceChildren(h('h2', { id: 'draft-title' }, ['Sign the draft']), s.steps, alert);
    $('draft-file').focus();
  });
}

async function submit(_, v, form) {
  const alert = $('alert'), go = form.querySelector('[type=submit]');
  alert.textContent = '';
  go.disabled = true;
  try {
    let id = v.asset;
    if (!id) {
      if (!file) { throw new Error('Choose a file, or an asset that is there.'); }
      const q = { file: file.name, name: v.title.trim(), version: v.version.trim(), publisher: v.publisher, draft: 'true' };
      const out = await upload(file, q, progress);
      if (out.draft) { await signed(out.draft.draft, out.draft.id, `publisher-${v.publisher}.pem`, `the key of “${v.publisher}”`); }
      id = (out.asset || out.draft).id;
    }
    $('work').hidden = true;
    if (!$('schedule').checked) { toast('Published.'); location.hash = '#/campaigns'; return; }
    const c = await post('/api/v1/campaigns?draft=true', { v: 1, id: '', assets: null, ...wish(), asset_ids: [id] });
    if (c.draft) { await signed(c.draft, c.id, 'campaigns.pem', 'the campaigns key'); }
    toast('The campaign has started.');
    location.hash = '#/campaigns/' + encodeURIComponent(c.id);
  } catch (e) {
    alert.textContent = e.message;
    alert.scrollIntoView({ block: 'nearest' });
  } finally {
    go.disabled = false;
    $('work').hidden = true;
  }
}

function local(t) { return new Date(t - new Date(t).getTimezoneOffset() * 6e4).toISOString().slice(0, 16); }

export default {
  title: () => 'Publish',
  load: async () => {
    const [publishers, assets, o] = await Promise.all([get('/data/publishers'), get('/api/v1/assets'), get('/data/overview')]);
    return { publishers: publishers.filter(p => !me.publisher || p.name === me.publisher), assets: assets.filter(a => !a.withdrawn).slice(-500).reverse(), o };
  },
  render({ publishers, assets, o }) {
    if (!may('publisher')) {
      return [h('section', { class: 'wide' }, [h('h1', {}, ['Publish and schedule']), h('p', { class: 'muted' }, [me.signed_in ? `You are signed in as ${me.role}. Publishing needs a publisher or an operator.` : 'Sign in as an operator to publish.']),
        me.signed_in ? null : h('p', {}, [h('button', { type: 'button', 'data-do': 'sign-in' }, ['Sign in'])])])];
    }
    const ops = may('operator'), groups = o.groups.filter(g => g.name);
    if (!groups.length) { groups.push({ name: 'default', boxes: 0 }); }
    const morning = new Date(Date.now() + 864e5).setHours(6, 0, 0, 0);
    return [h('form', { class: 'wide publish', 'data-form': 'publish', 'data-keep': '' }, [
      h('h1', { class: 'wide' }, ['Publish and schedule']),
      section('what', 'What', [
        field('asset', 'Asset', h('select', { id: 'asset', name: 'asset', onchange: () => { named(); } }, [h('option', { value: '' }, ['a new file']),
          ...assets.map(a => h('option', { value: a.id, 'data-name': a.name }, [`${a.name}${a.version ? ' ' + a.version : ''}, ${bytes(a.length)}, ${a.publisher}`]))])),
        h('div', { id: 'new' }, [
          h('div', { id: 'drop', class: 'drop' }, [
            h('input', { id: 'file', type: 'file', class: 'cover', 'aria-label': 'File to publish', onchange: e => took(e.target.files[0]) }),
            h('p', { id: 'drop-words', 'aria-live': 'polite' }, ['Drop a file here, or choose one'])]),
          h('div', { class: 'pair' }, [field('title', 'Title', input('title', { oninput: named, maxlength: 200 })), field('version', 'Version', input('version', { maxlength: 60 }))]),
          field('publisher', 'Publisher', h('select', { id: 'publisher', name: 'publisher', onchange: e => keyNote(publishers.find(p => p.name === e.target.value)) }, publishers.map(p => h('option', { value: p.name }, [p.name])))),
          h('p', { id: 'key-note', class: 'note', hidden: '' }),
        ]),
      ]),
      section('where', 'Where and when', [
        h('label', { class: 'check' }, [h('input', { id: 'schedule', type: 'checkbox', checked: ops ? '' : null, disabled: ops ? null : '', onchange: e => { $('campaign-fields').disabled = !e.target.checked; } }), 'Start a campaign']),
        h('fieldset', { id: 'campaign-fields', class: 'bare', disabled: ops ? null : '' }, [
          h('legend', { class: 'sr' }, ['The campaign']),
          h('div', { class: 'pair' }, [
            field('campaign', 'Campaign', input('campaign', { required: '', maxlength: 200, oninput: e => { e.target.dataset.own = '1'; } })),
            field('group', 'Group', h('select', { id: 'group', name: 'group' }, groups.map(g => h('option', { value: g.name }, [`${g.name} (${plural(g.boxes, 'box', 'boxes')})`]))))]),
          h('div', { class: 'pair' }, [
            field('deadline', 'Deadline', input('deadline', { type: 'datetime-local', value: local(morning), oninput: preview })),
            field('staging', 'Stages', h('select', { id: 'staging', name: 'staging' }, Object.entries(stagings).map(([k, [t]]) => h('option', { value: k }, [t]))))]),
          h('div', { id: 'windows', onchange: preview, oninput: preview }),
          h('p', {}, [h('button', { type: 'button', class: 'quiet small', id: 'add-window', onclick: () => { $('windows').append(windowRow()); preview(); $('windows').lastChild.querySelector('input').focus(); } }, ['Add a window'])]),
          h('div', { id: 'preview', class: 'chart' }), h('p', { id: 'preview-words', class: 'muted hint' }),
          h('details', {}, [h('summary', {}, ['More']),
            h('div', { class: 'pair' }, [
              field('not-before', 'Not before', input('not-before', { type: 'datetime-local', oninput: preview })),
              field('keep-until', 'Keep until', input('keep-until', { type: 'datetime-local' }))]),
            field('origin', 'The origin may be asked', h('select', { id: 'origin', name: 'origin' }, [['', 'when peers are not enough'], ['10m', 'after 10 minutes with peers alone'], ['1h', 'after an hour with peers alone'], ['never', 'never']].map(([v, t]) => h('option', { value: v }, [t])))),
            h('label', { class: 'check' }, [h('input', { id: 'missed', type: 'checkbox', onchange: preview }), 'Give up what is not there at the deadline'])]),
        ]),
      ]),
      h('section', { id: 'draft', class: 'wide', 'aria-labelledby': 'draft-title', hidden: '' }),
      h('div', { class: 'wide act' }, [
        h('p', { id: 'alert', role: 'alert' }),
        h('div', { id: 'work', hidden: '' }, [h('progress', { id: 'work-bar', max: 1, value: 0, 'aria-label': 'Progress' }), h('p', { id: 'work-words', class: 'muted' })]),
        h('button', { type: 'submit' }, ['Publish'])]),
    ])];
  },
  after({ publishers }) {
    const drop = $('drop');
    if (!drop) { return; }
    if (!drop.dataset.ready) {
      drop.dataset.ready = '1';
      file = null;
      for (const kind of ['dragenter', 'dragover']) { drop.addEventListener(kind, e => { e.preventDefault(); drop.classList.add('over'); }); }
      for (const kind of ['dragleave', 'drop']) { drop.addEventListener(kind, () => drop.classList.remove('over')); }
      drop.addEventListener('drop', e => { e.preventDefault(); took(e.dataTransfer.files[0]); });
      keyNote(publishers.find(p => p.name === $('publisher').value));
    }
    preview();
  },
  submit,
};
