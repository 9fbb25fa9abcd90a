// Makes the page live. What is shown is worked out as in the Go files of package dashboard,
// whose functions have the same names here; markup and words are those of the page. Text of
// others becomes text by textContent and setAttribute alone.
'use strict';
(() => {
const pageSize = 50, maxText = 600, maxDownloads = 25, maxPlatforms = 4, silence = 10;
const none = '–';
const $ = id => document.getElementById(id);
const words = {};
for (const p of $('words').content.children) words[p.dataset.w] = p.textContent;

// format.go and words.go

const word = (key, ...args) => (words[key] ?? '').split('{}')
  .map((part, i) => (i > 0 && i <= args.length ? args[i - 1] : '') + part).join('');

function cut(s, most) {
  if (s.length <= most) return s;
  const all = Array.from(s);
  return all.length > most ? all.slice(0, most).join('') + '…' : s;
}

const clean = (s, most = maxText) => cut(s ?? '', most)
  .replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, c => c === '\n' ? c : '\uFFFD');

const count = n => n.toLocaleString('en-US');
const number = (n, what) => n === 1 ? word(what + '.1', '1') : word(what + '.n', count(n));

function size(n) {
  if (n < 0) return none;
  if (n < 10) return n + ' B';
  let e = 0, unit = 1;
  while (n >= unit * 1024 && e < 6) { unit *= 1024; e++; }
  const val = Math.floor(n / unit * 10 + 0.5) / 10;
  let text = val.toFixed(1);
  if (val >= 10) { // half to even, as Go does
    const floor = Math.floor(val);
    text = String(val - floor === 0.5 ? floor + floor % 2 : Math.round(val));
  }
  return text + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'][e];
}

function percent(part, whole) {
  if (whole <= 0) return none;
  let tenths = Math.floor(part / whole * 1000 + 0.5);
  if (part < whole && tenths >= 1000) tenths = 999;
  else if (part > 0 && tenths < 1) tenths = 1;
  return (tenths / 10).toFixed(1) + ' %';
}

function duration(seconds) {
  const s = Math.floor(Math.max(seconds, 0));
  if (s < 60) return count(s) + ' s';
  if (s < 3600) return count(Math.floor(s / 60)) + ' min';
  if (s < 48 * 3600) return count(Math.floor(s / 3600)) + ' h';
  return count(Math.floor(s / 86400)) + ' days';
}

const known = t => Boolean(t) && !t.startsWith('0001-');
const seconds = t => Math.floor(Date.parse(t) / 1000);
const isoOf = s => new Date(s * 1000).toISOString().slice(0, 19) + 'Z';
const absOf = iso => iso.slice(0, 10) + ' ' + iso.slice(11, 19) + ' UTC';

function moment(s, now) {
  const iso = isoOf(s), d = now - s;
  const rel = d < -1 ? word('time.in', duration(-d)) : d < 2 ? word('time.now') : word('time.ago', duration(d));
  return { iso, abs: absOf(iso), rel };
}

function short(digest) {
  const i = digest.indexOf(':');
  return i < 0 ? clean(cut(digest, 20), 30) : clean(digest.slice(0, i + 13), 30);
}

// view.go

function newView(s, now) {
  const at = (t, unknown = none) => known(t) ? moment(seconds(t), now) : { iso: '', abs: '', rel: unknown };
  const v = {
    host: clean(s.host), version: clean(s.version), started: at(s.started), time: moment(now, now),
    mode: s.offline.mode, offline: word('offline.' + s.offline.mode), offlineReason: clean(s.offline.reason),
    offlineUntil: at(s.offline.until),
    remotes: (s.remotes ?? []).map(r => remote(r, at)),
    downloads: (s.downloads ?? []).slice(0, maxDownloads).map(d => download(d, at, now)),
    problems: (s.problems ?? []).map(p => {
      const first = at(p.first);
      return {
        key: first.iso + ' ' + p.text, text: clean(p.text), hint: clean(p.hint), times: number(p.times, 'times'),
        at: at(p.at), first, many: p.times > 1,
      };
    }),
    disk: disk(s.disk), config: config(s.config, at), seed: seed(s.seed, at),
  };
  const more = Math.max(s.allDownloads, (s.downloads ?? []).length) - v.downloads.length;
  v.downloadsMore = more > 0 ? word('download.more', number(more, 'downloads')) : '';
  v.someDownloads = v.downloads.length > 0;
  v.noDownloads = !v.someDownloads;
  v.noRemotes = v.remotes.length === 0;
  v.noProblems = v.problems.length === 0;
  v.tiles = tiles(s, v);
  v.chart = chart(s.history ?? [], v, at, now);
  v.notes = notes(s, v);
  [v.verdict, v.tone] = verdict(s, v);
  return v;
}

function remote(r, at) {
  const to = {
    key: r.host, host: clean(r.host), tone: 'good', state: word('remote.' + r.state) || clean(r.state),
    reason: clean(r.reason), since: at(r.since), next: at(r.nextTry), hasNext: known(r.nextTry),
    fetched: size(r.fetched), served: size(r.served), requests: count(r.requests),
  };
  if (r.state === 'held') to.tone = 'info';
  else if (!r.good) to.tone = 'warn';
  else if (r.state === 'unknown') {
    to.tone = 'info';
    to.reason ||= word('remote.idle');
  } else to.reason ||= word('remote.good');
  return to;
}

function download(d, at, now) {
  const to = {
    key: d.digest + ' ' + d.image, image: clean(d.image), digest: short(d.digest), remote: clean(d.remote),
    bar: { value: -1, max: 1 }, percent: '', have: word('download.have', size(d.have)), rate: word('rate', size(d.rate)),
    left: '', clients: d.clients ? number(d.clients, 'clients') : word('clients.0'), ahead: d.ahead ? word('download.ahead') : '',
    state: word('download.running'), tone: 'good', begun: at(d.begun),
  };
  if (d.size > 0) {
    to.bar = { value: Math.min(d.have, d.size), max: d.size };
    to.percent = percent(d.have, d.size);
    to.have = word('download.of', size(d.have), size(d.size));
    if (d.rate > 0 && d.have < d.size) to.left = word('download.left', duration(Math.floor((d.size - d.have) / d.rate) + 1));
  }
  const silent = known(d.lastByte) ? now - Date.parse(d.lastByte) / 1000 : 0;
  if (d.failure) [to.state, to.tone] = [word('download.failure', clean(d.failure)), 'warn'];
  else if (d.waiting) [to.state, to.tone] = [word('download.waiting'), 'info'];
  else if (silent >= silence) [to.state, to.tone] = [word('download.silent', duration(silent)), 'warn'];
  return to;
}

function disk(d) {
  const unknown = word('unknown'), no = word('none');
  const to = {
    state: word('disk.unknown'), tone: 'info', used: unknown, free: unknown, total: unknown,
    limit: d.limit > 0 ? size(d.limit) : no, reserve: d.minFree > 0 ? size(d.minFree) : no,
    kept: size(d.kept), evicted: size(d.evicted), usedBar: { value: 0, max: 0 }, diskBar: { value: 0, max: 0 },
    usedText: '', diskText: '', hasLimit: false, hasTotal: false,
  };
  if (d.known) {
    [to.state, to.tone] = [word('disk.ok'), 'good'];
    [to.used, to.free] = [size(d.used), size(d.free)];
    if (d.limit > 0) {
      [to.hasLimit, to.usedBar] = [true, { value: Math.min(d.used, d.limit), max: d.limit }];
      to.usedText = percent(d.used, d.limit);
    }
    if (d.total > 0) {
      to.total = size(d.total);
      [to.hasTotal, to.diskBar] = [true, { value: Math.min(Math.max(d.total - d.free, 0), d.total), max: d.total }];
      to.diskText = percent(d.total - d.free, d.total);
    }
  }
  if (d.short) [to.state, to.tone] = [word('disk.short', clean(d.short)), 'bad'];
  return to;
}

function config(c, at) {
  const to = { source: clean(c.source) || word('config.none'), loaded: at(c.loaded), state: word('config.good'), tone: 'good' };
  const restart = c.restart ?? [];
  if (c.error) [to.state, to.tone] = [word('config.bad', clean(c.error)), 'bad'];
  else if (restart.length) [to.state, to.tone] = [word('config.wait', clean(restart.join(', '))), 'warn'];
  return to;
}

function seed(s, at) {
  if (!s) return { file: word('seed.none'), state: none, tone: 'info', images: none, last: at(''), next: at('') };
  const to = {
    file: clean(s.file), state: word('seed.good'), tone: 'good',
    last: at(s.last, word('time.never')), next: at(s.next, word('unknown')), images: number(s.images, 'images'),
  };
  if (s.running) to.state = word('seed.running');
  else if (s.error) [to.state, to.tone] = [word('seed.failed', clean(s.error)), 'warn'];
  else if (s.failed > 0) [to.state, to.tone] = [word('seed.some', count(s.failed), number(s.images, 'images')), 'warn'];
  else if (!known(s.last)) [to.state, to.tone] = [word('seed.waiting'), 'info'];
  return to;
}

const answered = t => [t.hits + t.stale, t.hits + t.stale + t.misses];

function tiles(s, v) {
  const [fromCache, all] = answered(s.traffic);
  const rate = (s.downloads ?? []).reduce((sum, d) => sum + d.rate, 0);
  const remotes = (s.remotes ?? []).length, wrong = (s.remotes ?? []).filter(r => !r.good && r.state !== 'held').length;
  return {
    hits: percent(fromCache, all), hitsOf: word('tile.hits', number(all, 'requests')),
    saved: size(Math.max(s.traffic.served - s.traffic.fetched, 0)),
    savedOf: word('tile.saved', size(s.traffic.served), size(s.traffic.fetched)),
    downloads: count(s.allDownloads),
    downloadsAt: s.allDownloads > 0 ? word('tile.rate', word('rate', size(rate))) : word('tile.idle'),
    disk: v.disk.used, diskOf: s.disk.limit > 0 ? word('tile.of', size(s.disk.limit)) : word('tile.nolim'),
    images: s.images >= 0 ? count(s.images) : none,
    remotes: word('tile.remote', count(remotes - wrong), count(remotes)), remotesTone: wrong > 0 ? 'warn' : 'good',
  };
}

// chart.go

const maxBins = 36, chartWidth = 720, bytesTop = 8, bytesHeight = 120, ratioTop = 152, ratioHeight = 40;
const units = f => String(Math.floor(f * 10 + 0.5) / 10);
const noTraffic = () => ({ hits: 0, misses: 0, stale: 0, served: 0, fetched: 0 });

function add(to, s) {
  for (const name in noTraffic()) to[name] += s[name];
}

function bins(history, now) {
  const begin = s => seconds(s.at) - s.seconds;
  let first = Infinity, last = now, longest = 1, width = 86400;
  for (const s of history) {
    first = Math.min(first, begin(s));
    last = Math.max(last, begin(s));
    longest = Math.max(longest, s.seconds);
  }
  const nth = (t, w) => Math.floor(t / w);
  for (const w of [86400, 21600, 7200, 3600, 1800, 900, 300, 60]) {
    if (w >= longest && nth(last, w) - nth(first, w) < maxBins) width = w;
  }
  const from = Math.max(nth(first, width), nth(last, width) - maxBins + 1), all = [];
  for (let i = from; i <= nth(last, width); i++) all.push({ at: i * width, ...noTraffic() });
  for (const s of history) {
    const bin = all[nth(begin(s), width) - from];
    if (bin) add(bin, s);
  }
  return all;
}

function chart(history, v, at, now) {
  if (history.length === 0) return { has: false, bins: [], ratio: '', most: '', from: '', to: '', text: word('chart.empty') };
  const all = bins(history, now), sum = noTraffic(), points = [];
  let most = 1;
  for (const b of all) {
    add(sum, b);
    most = Math.max(most, b.served, b.fetched);
  }
  const width = chartWidth / all.length, height = n => Math.max(n, 0) / most * bytesHeight;
  const c = { has: true, most: size(most) };
  c.bins = all.map((b, i) => {
    const x = i * width, fetched = height(b.fetched), saved = height(b.served - b.fetched), at = moment(b.at, now);
    const [fromCache, answers] = answered(b);
    if (answers > 0) points.push([units(x + width * 0.5), units(ratioTop + ratioHeight * (1 - fromCache / answers))]);
    return {
      key: at.iso, at, x: units(x + width * 0.1), width: units(width * 0.8),
      fetchedY: units(bytesTop + bytesHeight - fetched), fetchedHeight: units(fetched),
      savedY: units(bytesTop + bytesHeight - fetched - saved), savedHeight: units(saved),
      served: size(b.served), fetched: size(b.fetched), saved: size(Math.max(b.served - b.fetched, 0)),
      ratio: percent(fromCache, answers),
    };
  });
  if (points.length === 1) points.splice(0, 1, ['0', points[0][1]], [units(chartWidth), points[0][1]]);
  c.ratio = points.map(p => p.join(',')).join(' ');
  [c.from, c.to] = [c.bins[0].at.abs, v.time.abs].map(t => t.slice(0, 16) + t.slice(19));
  c.text = word('chart.text', c.from, c.to, size(sum.served), size(sum.fetched), percent(...answered(sum)));
  return c;
}

// notes.go

function notes(s, v) {
  const all = [];
  const add = (key, tone, hint, text, ...args) => all.push({ key, tone, text: word(text, ...args), hint: word(hint) });
  if (!s.ready) {
    for (const reason of s.notReady?.length ? s.notReady : [word('unknown')]) {
      add('notready ' + reason, 'bad', 'note.notready.hint', 'note.notready', clean(reason));
    }
  }
  if (s.disk.short) add('short', 'bad', 'note.short.hint', 'note.short', clean(s.disk.short));
  if (s.config.error) add('config', 'bad', 'note.config.hint', 'note.config', clean(s.config.error));
  (s.remotes ?? []).forEach((r, i) => {
    if (r.good || r.state === 'held') return;
    const to = v.remotes[i];
    add('remote ' + r.host, 'warn', r.state === 'limited' ? 'note.limited.hint' : 'note.remote.hint', 'note.remote', to.host, to.reason || to.state);
  });
  const failing = (s.downloads ?? []).filter(d => d.failure).length;
  if (failing) add('downloads', 'warn', 'note.downloads.hint', 'note.downloads', number(failing, 'downloads'));
  if (s.seed?.error) add('seed', 'warn', 'note.seed.hint', 'note.seed', clean(s.seed.error));
  else if (s.seed?.failed > 0) add('seed', 'warn', 'note.seedfailed.hint', 'note.seedfailed', count(s.seed.failed), number(s.seed.images, 'images'));
  for (const text of s.warnings ?? []) add('warning ' + text, 'warn', 'note.warning.hint', 'note.warning', clean(text));
  if (s.config.restart?.length) add('restart', 'info', 'note.restart.hint', 'note.restart', clean(s.config.restart.join(', ')));
  if (s.offline.on) add('offline', 'info', 'note.offline.hint', 'note.offline', v.offlineReason || word('note.offline.noreason'));
  return all;
}

function verdict(s, v) {
  if (!s.ready) return [word('verdict.notready'), 'bad'];
  for (const tone of ['bad', 'warn']) {
    if (v.notes.some(n => n.tone === tone)) return [word('verdict.' + tone), tone];
  }
  return s.offline.on ? [word('verdict.offline'), 'info'] : [word('verdict.well'), 'good'];
}

// images.go

function image(i, now) {
  const name = clean(i.name), pins = [];
  let pin = 'pin';
  for (const p of i.pins ?? []) {
    const by = word('pin.' + p.reason);
    if (by && !pins.includes(by)) pins.push(by);
    if (p.reason === 'operator') pin = 'unpin';
  }
  const platforms = (i.platforms ?? []).slice(0, maxPlatforms), more = (i.platforms ?? []).length - platforms.length;
  if (more > 0) platforms.push(word('image.more', count(more)));
  return {
    key: i.name + ' ' + i.digest, name, asked: i.name, digest: short(i.digest), size: size(i.size), own: word('image.own', size(i.unique)),
    used: known(i.used) ? moment(seconds(i.used), now) : { iso: '', abs: '', rel: word('unknown') }, tagged: Boolean(i.tag),
    pinAction: 'actions/' + pin, pinText: word(pin), pinLabel: word('image.' + pin, name),
    refreshLabel: word('image.refresh', name), removeLabel: word('image.remove', name),
    platforms: clean(platforms.join(', ')),
    incomplete: i.missing > 0 ? word('image.missing', number(i.missing, 'parts')) : i.complete ? '' : word('image.part'),
    pinned: i.pinned ? word('pinned') : '', pins: i.pinned ? pins.join(', ') : '',
  };
}

// Putting a view into the page. Elements say by attributes what of it they show; nothing is
// touched that has not changed, and what has the focus keeps it.

const shows = '[data-t],[data-m],[data-if],[data-is],[data-bar],[data-a]';
const found = new WeakMap();
const pick = (view, path) => path.split('.').reduce((at, name) => at?.[name], view);

function attribute(el, name, value) {
  if (el.getAttribute(name) !== String(value)) el.setAttribute(name, value);
}

function setText(el, value) {
  if (el.textContent !== value) el.textContent = value;
}

function fill(root, view) {
  if (!found.has(root)) {
    found.set(root, [root, ...root.querySelectorAll(shows)].filter(el => el.matches?.(shows) && (el === root || el.closest('[data-key]') === (root.matches?.('[data-key]') ? root : null))));
  }
  for (const el of found.get(root)) {
    const d = el.dataset;
    if (d.t) setText(el, pick(view, d.t) ?? '');
    if (d.if) el.hidden = !pick(view, d.if);
    if (d.is) attribute(el, 'data-tone', pick(view, d.is));
    if (d.m) {
      const m = pick(view, d.m);
      setText(el, m.rel);
      for (const [name, value] of [['datetime', m.iso], ['title', m.abs]]) {
        if (value) attribute(el, name, value); else el.removeAttribute(name);
      }
    }
    if (d.bar) {
      const bar = pick(view, d.bar);
      attribute(el, 'max', bar.max);
      if (bar.value >= 0) attribute(el, 'value', bar.value); else el.removeAttribute('value');
    }
    for (const part of d.a?.split(' ') ?? []) {
      const [name, path] = part.split(':');
      attribute(el, name, pick(view, path));
    }
  }
}

function patch(box, items) {
  const template = $(box.dataset.row).content.querySelector('[data-key]');
  const before = [...box.children], rows = new Map(before.map(row => [row.dataset.key, row]));
  const active = document.activeElement, lost = before.findIndex(row => row.contains(active));
  const wanted = items.map(item => {
    let row = rows.get(item.key);
    rows.delete(item.key);
    if (!row) {
      row = document.importNode(template, true);
      row.dataset.key = item.key;
    }
    fill(row, item);
    return row;
  });
  const keep = new Set(wanted);
  for (const row of before) if (!keep.has(row)) row.remove();
  if (wanted.some((row, i) => box.children[i] !== row)) {
    // Who has the focus would lose it by being moved: the others go around.
    const held = wanted.find(row => row.contains(active));
    let after = held === undefined;
    for (const row of wanted) {
      if (row === held) after = true;
      else box.insertBefore(row, after ? null : held);
    }
  }
  if (lost >= 0 && !keep.has(before[lost])) {
    const next = wanted[Math.min(lost, wanted.length - 1)];
    (next?.querySelector('[data-remove]') ?? $('images-status')).focus();
  }
}

// What is said to those who do not see it.

let sayTimer;
function say(text) {
  setText($('say'), text);
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => setText($('say'), ''), 10000);
}

// The state, live.

let state, received, lastNotes;

function show(now) {
  const v = newView(state, now);
  fill(document, v);
  for (const box of document.querySelectorAll('[data-each]')) {
    if (box.dataset.each !== 'images') patch(box, pick(v, box.dataset.each));
  }
  for (const button of document.querySelectorAll('[data-mode]')) attribute(button, 'aria-pressed', button.dataset.mode === v.mode);
  const title = v.verdict + ' – ' + v.host;
  if (document.title !== title) document.title = title;
  if (lastNotes) {
    const fresh = v.notes.find(n => !lastNotes.some(old => old.key === n.key));
    if (fresh) say(v.verdict + '. ' + fresh.text);
    else if (v.tone === 'good' && lastNotes.some(n => n.tone !== 'info')) say(word('say.well'));
  }
  lastNotes = v.notes;
}

// now is the server's time, whatever this machine's is.
const now = () => seconds(state.now) + Math.floor((performance.now() - received) / 1000);

function news(event) {
  const next = JSON.parse(event.data);
  if (!next.host && !next.started) return;
  next.history ??= state?.history;
  state = next;
  received = performance.now();
  live('good', word('live.on'));
  if (Boolean(state.actions) !== ('actions' in document.body.dataset) && received > 5000) {
    location.reload(); // there are buttons now, or none any more
    return;
  }
  show(seconds(state.now));
  refresh();
}

function live(tone, text) {
  attribute($('live'), 'data-tone', tone);
  setText($('live'), text);
}

let source, retry;
function connect() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource('events');
  source.addEventListener('state', news);
  source.onerror = () => {
    live('warn', word('live.off', state ? absOf(isoOf(seconds(state.now))) : none));
    if (source.readyState === EventSource.CLOSED) retry = setTimeout(connect, 10000);
  };
}

// Who does not look costs nothing.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) return connect();
  clearTimeout(retry);
  source.close();
});
setInterval(() => { if (state && !document.hidden) show(now()); }, 15000);

// The list of images.

const list = $('list'), search = $('search');
const query = {
  q: $('q').value, sort: search.elements.sort.value, order: search.elements.order.value,
  offset: Number(new URLSearchParams(location.search).get('offset')) || 0,
};
query.offset = Math.max(query.offset - query.offset % pageSize, 0);
let generation = Number(list.dataset.generation), loaded = performance.now(), loading;

function href(q) {
  const params = new URLSearchParams({ sort: q.sort, order: q.order });
  if (q.q) params.set('q', q.q);
  if (q.offset > 0) params.set('offset', q.offset);
  params.sort();
  return './?' + params + '#images';
}

async function load() {
  loading?.abort();
  const mine = loading = new AbortController();
  list.setAttribute('aria-busy', 'true');
  try {
    const params = new URLSearchParams({ ...query, limit: pageSize });
    const answer = await fetch('images?' + params, { signal: mine.signal });
    if (!answer.ok) throw new Error(clean(await answer.text()));
    const page = await answer.json();
    if (mine.signal.aborted) return;
    if (page.images.length === 0 && page.total > 0 && query.offset > 0) { // the last ones are gone
      query.offset = Math.floor((page.total - 1) / pageSize) * pageSize;
      return load();
    }
    generation = page.generation;
    attribute(list, 'data-generation', generation);
    showImages(page);
  } catch (err) {
    if (err.name === 'AbortError') return;
    setText($('images-status'), word('images.error', err instanceof TypeError ? word('failed.net') : err.message));
  } finally {
    if (loading === mine) {
      loading = undefined;
      loaded = performance.now();
      list.removeAttribute('aria-busy');
    }
  }
}

function showImages(page) {
  patch(list.tBodies[0], page.images.map(i => image(i, state ? now() : Math.floor(Date.now() / 1000))));
  const last = query.offset + page.images.length;
  setText($('images-status'), page.images.length > 0
    ? word('images.range', count(query.offset + 1), count(last), number(page.total, 'images'))
    : word(query.q ? 'images.nomatch' : 'images.none'));
  $('truncated').hidden = !page.truncated;
  for (const a of list.querySelectorAll('[data-sort]')) {
    const is = a.dataset.sort === query.sort, th = a.parentElement;
    if (is) attribute(th, 'aria-sort', query.order === 'desc' ? 'descending' : 'ascending');
    else th.removeAttribute('aria-sort');
    attribute(a, 'href', href({ ...query, ...sorted(a.dataset.sort) }));
  }
  turn($('previous'), query.offset > 0, query.offset - pageSize);
  turn($('next'), last < page.total, query.offset + pageSize);
}

function turn(a, there, offset) {
  if (!there && document.activeElement === a) $('images-status').focus();
  a.hidden = !there;
  if (there) attribute(a, 'href', href({ ...query, offset }));
}

function sorted(column) {
  const desc = query.sort === column ? query.order === 'asc' : column !== 'name';
  return { sort: column, order: desc ? 'desc' : 'asc', offset: 0 };
}

function ask(change) {
  Object.assign(query, change);
  search.elements.sort.value = query.sort;
  search.elements.order.value = query.order;
  history.replaceState(null, '', href(query).replace('#images', ''));
  load();
}

// refresh gets the list anew when it has changed, or when it was got a while ago.
function refresh() {
  const age = performance.now() - loaded;
  if (!loading && (state.generation !== generation ? age > 2000 : age > 60000)) load();
}

let typing;
search.addEventListener('submit', event => {
  event.preventDefault();
  clearTimeout(typing);
  ask({ q: $('q').value.trim(), offset: 0 });
});
$('q').addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(() => ask({ q: $('q').value.trim(), offset: 0 }), 250);
});
list.tHead.addEventListener('click', event => {
  const a = event.target.closest('[data-sort]');
  if (!a || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  ask(sorted(a.dataset.sort));
});
for (const [id, step] of [['previous', -pageSize], ['next', pageSize]]) {
  $(id).addEventListener('click', event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    ask({ offset: Math.max(query.offset + step, 0) });
  });
}

// What the operator can do. The token is in this tab's session storage, and in the header of
// requests that change something.

const slot = 'registry-module admin token';
let held = '';
try { held = sessionStorage.getItem(slot) ?? ''; } catch { /* it is off: the token is gone with the page */ }

function setToken(token) {
  held = token;
  try {
    if (token) sessionStorage.setItem(slot, token); else sessionStorage.removeItem(slot);
  } catch { /* as above */ }
  $('token').value = '';
  if (!token && document.activeElement === $('forget')) $('token').focus();
  $('forget').hidden = !token;
}

function keep() {
  const token = $('token').value.trim();
  if (token) {
    setToken(token);
    say(word('token.kept'));
  }
  return held;
}

async function send(action, values) {
  if (!keep()) {
    say(word('token.missing'));
    $('token').focus();
    return;
  }
  const first = Object.values(values)[0];
  say(word('working'));
  let answer, text = '';
  try {
    answer = await fetch(action, {
      method: 'POST', body: new URLSearchParams(values), redirect: 'error',
      headers: { Authorization: 'Bearer ' + held, Accept: 'application/json' },
    });
    text = await answer.text();
    try {
      const said = JSON.parse(text);
      text = said.message ?? said.error ?? '';
    } catch { /* it is text already */ }
  } catch {
    return say(word('failed', word('failed.net')));
  }
  text = clean(text.trim());
  if (answer.ok) {
    say(text || word('done.' + action.replace('actions/', ''), clean(first)) || word('done'));
  } else if (answer.status === 401) {
    setToken('');
    say(word('token.wrong'));
    $('token').focus();
  } else {
    say(word('failed', text || String(answer.status)));
  }
  if (answer.ok && values.image) load();
}

if ($('act')) {
  setToken(held);
  $('keep').addEventListener('click', keep);
  $('forget').addEventListener('click', () => {
    setToken('');
    say(word('token.gone'));
  });
  $('token').addEventListener('keydown', event => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    keep();
  });
  $('act').addEventListener('submit', event => {
    event.preventDefault();
    const by = event.submitter;
    if (by) send(by.getAttribute('formaction'), by.name ? { [by.name]: by.value } : {});
  });
  $('seed').addEventListener('submit', event => {
    event.preventDefault();
    send('actions/seed', { images: $('seed-image').value, platforms: $('seed-platforms').value });
  });
  let condemned;
  $('ask').addEventListener('submit', event => {
    event.preventDefault();
    condemned = event.submitter.value;
    setText($('confirm-name'), clean(condemned));
    $('confirm-force').checked = false;
    $('confirm').returnValue = 'no';
    $('confirm').showModal();
  });
  $('confirm').addEventListener('close', () => {
    if ($('confirm').returnValue === 'yes') send('actions/remove', { image: condemned, force: $('confirm-force').checked });
  });
}

document.documentElement.classList.add('scripted');
setText($('live'), word('live.wait'));
connect();
})();
