'use strict';
// The status page: listens to the box and shows what it says.
(function (b) {
  var $ = b.$, h = b.h, snap = null, day = null, past = null, mode = 'fine', skew = 0, shown = 8, last = null, drawn = 0, planned = '';
  var local = false; // this is the box's own page, which plays; the box tells
  var states = { enrolling: 'Joining the fleet', attention: 'Needs attention', paused: 'Paused', fetching: 'Fetching', waiting: 'Waiting', idle: 'All is well' };
  var words = { accepted: 'Waiting', fetching: 'Coming', verified: 'Almost here', ready: 'Here', rejected: 'Cannot be taken', failed: 'Failed' };
  var roles = { courier: 'Carried into the home by this box', follower: 'comes from another box of the home', alone: '' };
  var step = 50; // titles that one more press shows

  function now() { return Date.now() + skew; }
  function plural(n, one) { return n + ' ' + one + (n === 1 ? '' : 's'); }

  function hero() {
    var st = snap.state, pill = $('state');
    b.set($('box'), snap.box.id || snap.box.host || 'boxd');
    document.title = (snap.box.id || 'boxd') + ' · ' + (states[st] || st);
    b.set($('place'), snap.box.fleet ? 'fleet ' + snap.box.fleet + (snap.box.group ? ', group ' + snap.box.group : '') : 'not in a fleet yet');
    b.set(pill, states[st] || st);
    pill.className = 'pill ' + st;
    b.set($('summary'), snap.summary);
    var ready = snap.assets.filter(function (a) { return a.state === 'ready'; }).length, f = snap.fetch;
    var rate = f.rates.lan + f.rates.peer + f.rates.origin, all = f.bytes.lan + f.bytes.peer + f.bytes.origin;
    facts([
      ['Ready to play', ready + ' of ' + snap.assets.length, 'titles here'],
      ['Coming in', b.rate(rate), all ? b.bytes(all) + ' so far' : 'nothing so far'],
      ['Spared the line', all ? Math.round(100 * f.bytes.lan / all) + ' %' : '–', b.bytes(f.bytes.lan) + ' came from the home'],
      ['Disk', b.bytes(snap.cache.reserved_bytes), 'of ' + b.bytes(snap.cache.effective_quota_bytes || snap.cache.quota_bytes)],
      ['Watching', f.playback ? 'yes' : 'no', f.playback ? 'boxd holds back' : plural(f.players, 'player') + ' open']
    ]);
  }

  function facts(list) {
    b.each($('facts'), list, function (f) { return f[0]; }, function (f) {
      return h('div', {}, [h('dt', { text: f[0] }), h('dd', {}, [h('span'), h('small')])]);
    }, function (el, f) {
      b.set(el.querySelector('span'), f[1]);
      b.set(el.querySelector('small'), f[2]);
    });
  }

  function warnings() {
    $('health').hidden = !snap.health.length;
    b.each($('warnings'), snap.health, function (w) { return w.code; }, function () {
      return h('li', {}, [h('p', { 'class': 'what' }), h('p', { 'class': 'todo' }), h('p', { 'class': 'since' })]);
    }, function (el, w) {
      el.className = w.severity;
      b.set(el.children[0], w.text);
      b.set(el.children[1], w.action ? 'What to do: ' + w.action : 'Nothing to do: it mends itself.');
      b.set(el.children[2], w.code + ', since ' + b.when(b.time(w.since), now()));
    });
  }

  function playable(a) {
    if (!local || a.state === 'rejected') { return null; }
    var v = $('video');
    for (var i = 0; i < a.files.length; i++) {
      if (/^(video|audio)\//.test(a.files[i].type) && v.canPlayType(a.files[i].type)) { return a.files[i]; }
    }
    return null;
  }

  function sentence(a) {
    var parts = [h('b', { text: words[a.state] || a.state })], t = now();
    if (a.rate > 0 && a.state === 'fetching') { parts.push(' at ' + b.rate(a.rate)); }
    if (a.eta && a.state !== 'ready') { parts.push(', here ' + b.when(b.time(a.eta), t)); }
    parts.push('. ');
    if (a.read_back) { parts.push('Being read back and checked: ' + Math.floor(100 * a.read_back / Math.max(a.verified, 1)) + ' %. '); }
    if (a.state !== 'ready' && a.why) { parts.push(a.why + ' '); }
    if (a.state === 'ready') {
      parts.push(b.bytes(a.length) + (a.bytes.lan ? ', ' + b.bytes(a.bytes.lan) + ' of it from the home' : '') + '. ');
      if (a.keep_until) { parts.push('Kept until ' + b.when(b.time(a.keep_until), t) + '. '); }
    } else if (a.deadline) {
      parts.push(h('span', a.late || a.danger ? { 'class': 'late', text: (a.late ? 'It will be late: due ' : 'In danger: due ') + b.when(b.time(a.deadline), t) + '. ' } : { text: 'Due ' + b.when(b.time(a.deadline), t) + '. ' }));
    }
    if (a.pinned) { parts.push('Pinned. '); }
    if (roles[a.role] && a.state === 'fetching') { parts.push(a.role === 'follower' && a.courier ? 'Carried by ' + a.courier + '.' : roles[a.role] + '.'); }
    return parts;
  }

  function assets() {
    $('assets-none').hidden = snap.assets.length > 0;
    var more = snap.assets.length - shown;
    $('assets-more').hidden = more <= 0;
    b.set($('more'), more > step ? 'Show ' + step + ' more of ' + more : 'Show ' + more + ' more');
    b.each($('assets'), snap.assets.slice(0, shown), function (a) { return a.id; }, function () {
      var bar = h('div', { 'class': 'bar', role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 100 }, [h('i', { 'class': 'lan' }), h('i', { 'class': 'peer' }), h('i', { 'class': 'origin' }), h('i', { 'class': 'rest' })]);
      return h('li', {}, [h('div', {}, [h('p', { 'class': 'name' }), h('p', { 'class': 'say' })]), h('div', { 'class': 'do' }), bar]);
    }, asset);
  }

  function asset(el, a) {
    var name = el.querySelector('.name'), say = el.querySelector('.say'), act = el.querySelector('.do'), bar = el.querySelector('.bar');
    var title = a.name + (a.version ? ' ' + a.version : '');
    if (name.getAttribute('data-t') !== title) {
      name.setAttribute('data-t', title);
      fillWith(name, [a.name, h('small', { text: [a.publisher, a.version].filter(Boolean).join(', version ') })]);
    }
    var words = sentence(a), text = words.map(function (w) { return typeof w === 'string' ? w : w.textContent; }).join('');
    if (say.textContent !== text) { fillWith(say, words); }
    var pct = a.length ? Math.floor(1000 * a.verified / a.length) / 10 : 0, file = playable(a);
    var wants = file ? 'play' : 'pct';
    if (act.getAttribute('data-w') !== wants) {
      act.setAttribute('data-w', wants);
      fillWith(act, [file ? h('button', { type: 'button', 'aria-label': 'Play ' + a.name, onclick: function () { play(a.id); } }, ['▶ Play']) : h('span', { 'class': 'pct' })]);
    }
    if (!file) { b.set(act.firstChild, pct + ' %'); }
    bar.setAttribute('aria-valuenow', pct);
    bar.setAttribute('aria-label', a.name + ': ' + pct + ' percent here');
    var got = a.bytes.lan + a.bytes.peer + a.bytes.origin, scale = got > 0 ? pct / Math.max(got, a.verified || 1) : 0;
    bar.children[0].style.width = a.bytes.lan * scale + '%';
    bar.children[1].style.width = a.bytes.peer * scale + '%';
    bar.children[2].style.width = a.bytes.origin * scale + '%';
    bar.children[3].style.width = Math.max(0, pct - got * scale) + '%';
  }

  function fillWith(el, kids) {
    b.clear(el);
    kids.forEach(function (k) { el.appendChild(typeof k === 'string' ? document.createTextNode(k) : k); });
  }

  var tabled = '';
  function homeTable() {
    var el = $('home-table'), hh = b.household(snap, 7), n = hh.boxes.length, gone = 0;
    snap.given.forEach(function (g) {
      if (g.link === 'lan' && !snap.home.some(function (x) { return x.id === g.id; })) { gone += g.received_bytes; }
    });
    var cells = hh.given.map(function (row) { return row.map(function (v) { return v ? b.bytes(v) : '–'; }); });
    var outside = hh.boxes.map(function (x) { return x.wan ? b.bytes(x.wan) : '–'; });
    var key = JSON.stringify([hh.boxes.map(function (x) { return x.name; }), cells, outside, gone, hh.rest]);
    if (key === tabled) { return; }
    tabled = key;
    $('home-card').className = $('disk-card').className = n > 3 ? 'wide' : '';
    if (n < 2) { b.clear(el); return; }
    var head = [h('th', { scope: 'col', text: 'From' })].concat(hh.boxes.map(function (x) { return h('th', { scope: 'col', 'class': 'n', text: 'to ' + x.name }); }));
    var rows = [h('tr', {}, head)];
    rows.push(h('tr', {}, [h('th', { scope: 'row', text: 'the Internet' })].concat(outside.map(function (t) { return h('td', { 'class': 'n', text: t }); }))));
    hh.boxes.forEach(function (x, i) {
      rows.push(h('tr', {}, [h('th', { scope: 'row', text: x.name })].concat(cells[i].map(function (t, j) { return h('td', { 'class': 'n', text: i === j ? '' : t }); }))));
    });
    var notes = [];
    if (hh.rest) { notes.push('and ' + plural(hh.rest, 'more box').replace('boxs', 'boxes') + ' that gave less'); }
    if (gone) { notes.push(b.bytes(gone) + ' came from boxes that are not here now'); }
    fillWith(el, [h('table', {}, [h('caption', { 'class': 'sr', text: 'Who gave what to whom' })].concat(rows))].concat(notes.length ? [h('p', { 'class': 'muted', text: notes.join('; ') + '.' })] : []));
  }

  function about() {
    var c = snap.cache, text = 'boxd ' + snap.version + ', up ' + b.span(snap.uptime_seconds) + ', ' + b.bytes(snap.process.rss_bytes) + ' of memory. Catalog ' + (snap.catalog.version ? 'version ' + snap.catalog.version + (snap.catalog.fresh ? '' : ', expired') : 'not there yet') + '. ' + (snap.broker.connected ? 'Connected to the fleet manager.' : 'Not connected to the fleet manager.');
    b.set($('about'), text);
    b.set($('disk-text'), b.bytes(c.reserved_bytes) + ' taken of ' + b.bytes(c.effective_quota_bytes || c.quota_bytes) + (c.effective_quota_bytes < c.quota_bytes ? ' (others fill the disk)' : '') + '; the disk has ' + b.bytes(Math.max(c.disk_free_bytes, 0)) + ' free, of which boxd leaves ' + b.bytes(c.reserve_bytes) + ' alone.');
  }

  function charts() {
    if (!snap || document.hidden) { return; }
    drawn = Date.now();
    if (past && !b.hovering) { b.flow($('flow'), past[mode], now(), mode === 'fine' ? 6e5 : 864e5); }
    b.day($('day'), snap, day, now());
    b.disk($('disk'), snap);
    b.home($('home'), snap);
  }

  // grow adds what came since the last snapshot to the history that was loaded at first.
  function grow() {
    var f = snap.fetch.bytes, t = b.time(snap.time);
    if (past && last && t > last.t) {
      var step = (t - last.t) / 1000, k = past.fine.step_seconds / step;
      past.fine.samples.push({ t: snap.time, lan: (f.lan - last.lan) * k, peer: (f.peer - last.peer) * k, origin: (f.origin - last.origin) * k });
      if (past.fine.samples.length > 700) { past.fine.samples.splice(0, 100); }
    }
    if (!last || t - last.t >= 0) { last = { t: t, lan: f.lan, peer: f.peer, origin: f.origin }; }
  }

  // plan asks for the schedule again when what it rests on has changed.
  function plan() {
    var basis = snap.catalog.version + snap.assets.map(function (a) { return a.id + a.state; }).join();
    if (basis === planned) { return; }
    planned = basis;
    json('/api/v1/schedule').then(function (d) { day = d; drawn = 0; }, lost);
  }

  function show(s) {
    snap = s;
    skew = b.time(s.time) - Date.now();
    b.offset = s.clock.utc_offset_seconds || 0;
    grow();
    hero(); warnings(); assets(); homeTable(); about(); plan();
    if (!sheet && Date.now() - drawn > 2000) { charts(); }
    var l = $('link');
    l.className = 'link';
    b.set(l, b.clock(now()));
    l.title = 'the box answers';
  }

  function lost() {
    $('link').className = 'link down';
    b.set($('link'), 'the box does not answer');
  }

  function json(url) {
    return fetch(url, { credentials: 'same-origin' }).then(function (r) {
      if (!r.ok) { throw new Error(r.status); }
      return r.json();
    });
  }

  var source = null, poll = null;
  function listen() {
    if (source || poll) { return; }
    if (!window.EventSource) {
      poll = setInterval(function () { json('/api/v1/status').then(show, lost); }, 2000);
      return;
    }
    source = new EventSource('/api/v1/events');
    source.addEventListener('status', function (e) { show(JSON.parse(e.data)); });
    source.onerror = function () {
      lost();
      if (source && source.readyState === 2) { rest(); setTimeout(listen, 5000); } // it gave up by itself
    };
  }
  function rest() {
    if (source) { source.close(); source = null; }
    if (poll) { clearInterval(poll); poll = null; }
  }
  function load() {
    json('/api/v1/history').then(function (p) { past = p; last = null; charts(); }, lost);
  }

  // Sheets: one dialog at a time, closed by Escape, focus kept inside and given back.
  var opener = null, sheet = null;
  function open(el, first) {
    opener = document.activeElement;
    sheet = el;
    el.hidden = false;
    document.body.style.overflow = 'hidden';
    first.focus();
  }
  function shut() {
    if (!sheet) { return; }
    var v = $('video');
    if (sheet.id === 'player') { v.pause(); v.removeAttribute('src'); v.load(); }
    sheet.hidden = true;
    sheet = null;
    document.body.style.overflow = '';
    if (opener && document.contains(opener)) { opener.focus(); }
  }
  document.addEventListener('keydown', function (e) {
    if (!sheet) { return; }
    if (e.key === 'Escape' || e.key === 'GoBack' || e.key === 'BrowserBack') { shut(); e.preventDefault(); }
    if (e.key === 'Tab') {
      var all = sheet.querySelectorAll('button, video');
      if (e.shiftKey && document.activeElement === all[0]) { all[all.length - 1].focus(); e.preventDefault(); }
      else if (!e.shiftKey && document.activeElement === all[all.length - 1]) { all[0].focus(); e.preventDefault(); }
    }
  });

  function play(id) {
    var a = snap.assets.filter(function (x) { return x.id === id; })[0], file = a && playable(a), v = $('video');
    if (!file) { return; }
    b.set($('player-title'), a.name);
    b.set($('player-note'), a.state === 'ready' ? '' : 'It is still arriving: what you watch is fetched first.');
    v.src = file.url;
    open($('player'), $('player-close'));
    var started = v.play();
    if (started && started.catch) { started.catch(function () { /* the viewer presses play */ }); }
  }
  $('video').addEventListener('error', function () {
    if (sheet && $('video').getAttribute('src')) { b.set($('player-note'), 'This browser cannot play it, or the bytes cannot be had now.'); }
  });
  $('video').addEventListener('waiting', function () { b.set($('player-note'), 'Waiting for bytes…'); });
  $('video').addEventListener('playing', function () { b.set($('player-note'), ''); });
  $('player-close').addEventListener('click', shut);
  $('pairing-close').addEventListener('click', shut);
  $('more').addEventListener('click', function () { var from = shown; shown += step; assets(); var next = $('assets').children[from]; next.setAttribute('tabindex', '-1'); next.focus(); });

  function choose(m) {
    mode = m;
    $('fine').setAttribute('aria-pressed', m === 'fine');
    $('coarse').setAttribute('aria-pressed', m === 'coarse');
    charts();
  }
  $('fine').addEventListener('click', function () { choose('fine'); });
  $('coarse').addEventListener('click', function () { choose('coarse'); });

  $('pair').addEventListener('click', function () {
    json('/api/v1/pairing').then(function (p) {
      b.set($('pairing-code'), p.code.slice(0, 3) + ' ' + p.code.slice(3));
      b.set($('pairing-url'), 'http://' + (p.addresses[0] || snap.box.host + '.local') + ':' + p.port);
      open($('pairing'), $('pairing-close'));
    }, lost);
  });
  json('/api/v1/pairing').then(function (p) {
    local = p.here;
    $('pair').hidden = !p.enabled;
    if (snap) { assets(); }
  }, lost);

  document.addEventListener('visibilitychange', function () {
    if (document.hidden) { rest(); } else { load(); listen(); }
  });
  window.addEventListener('resize', charts);
  setInterval(function () {
    if (document.hidden) { return; }
    json('/api/v1/schedule').then(function (d) { day = d; }, function () {});
    if (mode === 'coarse') { json('/api/v1/history').then(function (p) { past.coarse = p.coarse; }, function () {}); }
  }, 60000);
  setInterval(function () { if (!document.hidden && snap && !sheet) { charts(); } }, 10000);
  load();
  listen();
})(boxd);
