"""Style sheet of a page (light, dark and print), and the script of its charts.

Text and lines have a contrast of at least 4.5 with their background (WCAG AA).
"""

COLORS = 8
"""Number of colours for runs: classes c0 to c7. Further runs have dashed lines: d1, d2."""

STYLE = """
:root {
  --back: #fff; --card: #f6f7f9; --ink: #1a1d21; --soft: #59616b; --line: #d5d9df;
  --c0: #0b62b8; --c1: #b8430a; --c2: #08764f; --c3: #8f2fb0;
  --c4: #a8174a; --c5: #5d6600; --c6: #0b6d80; --c7: #4b5563;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171b; --card: #1d2126; --ink: #e7eaee; --soft: #a3acb8; --line: #363c45;
    --c0: #6cb6ff; --c1: #ff9e64; --c2: #5fd9a6; --c3: #d8a6ff;
    --c4: #ff8fb1; --c5: #c9d65b; --c6: #5ed3e6; --c7: #b8c0cc;
  }
}
@media print {
  :root {
    --back: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --c0: #0b62b8; --c1: #b8430a; --c2: #08764f; --c3: #8f2fb0;
    --c4: #a8174a; --c5: #5d6600; --c6: #0b6d80; --c7: #4b5563;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums }
main { max-width: 96rem; margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; padding-top: .9rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
p { margin: .3rem 0 .8rem; max-width: 48rem }
h1, h2, h3, p, summary, .legend { overflow-wrap: anywhere }
.soft, figcaption, caption { color: var(--soft) }
.warn { border-left: 4px solid var(--c1); padding: .4rem .8rem; background: var(--card) }
.c0 { --c: var(--c0) } .c1 { --c: var(--c1) } .c2 { --c: var(--c2) } .c3 { --c: var(--c3) }
.c4 { --c: var(--c4) } .c5 { --c: var(--c5) } .c6 { --c: var(--c6) } .c7 { --c: var(--c7) }

.scroll { overflow-x: auto; margin: .6rem 0 1rem }
table { border-collapse: collapse; font-size: .87rem }
th, td { padding: .32rem .4rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600 }
thead th { color: var(--soft); vertical-align: bottom; min-width: 3.6rem }
th:first-child, .words { text-align: left }
tbody th, .words { overflow-wrap: anywhere }
tbody th { min-width: 7.5rem; max-width: 22rem }
.words { min-width: 6.5rem; max-width: 34rem }
.soft { font-weight: 400 }
.run::before { content: ""; display: inline-block; width: .85em; height: .85em;
  margin-right: .5em; border-radius: .2em; background: var(--c); vertical-align: -.08em }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0; margin: .4rem 0 .8rem;
  list-style: none; font-size: .9rem }
details { margin: .5rem 0 }
summary { cursor: pointer; padding: .2rem 0 }
.shown > img { max-width: 100%; height: auto; background: #fff; border-radius: 6px }
figure { margin: 0 }
figure.shown { margin: .8rem 0 }

.charts { display: grid; gap: 1.2rem; margin: .4rem 0 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(25rem, 100%), 1fr)) }
.chart { background: var(--card); border-radius: 8px; padding: .7rem .9rem .5rem;
  break-inside: avoid; min-width: 0 }
.chart figcaption { color: var(--ink); font-weight: 600; margin-bottom: .5rem }
.chart figcaption small { color: var(--soft); font-weight: 400 }
.plot { display: grid; grid-template-columns: 3.4rem minmax(0, 1fr); font-size: .75rem;
  color: var(--soft); margin-right: .8rem }
.area { position: relative; height: 15rem; grid-column: 2 }
.area svg { display: block; width: 100%; height: 100%; overflow: visible }
.ys, .xs { position: relative }
.ys span { position: absolute; right: .5rem; transform: translateY(50%); white-space: nowrap }
.xs { grid-column: 2; height: 1.5rem }
.xs span { position: absolute; top: .2rem; transform: translateX(-50%); white-space: nowrap }
.area path, .area line { vector-effect: non-scaling-stroke; fill: none }
.grid { stroke: var(--line); stroke-width: 1 }
.curve { stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round }
.faint { stroke-width: 1; opacity: .45 }
.area .band { fill: var(--c); opacity: .16 }
.dots { stroke: var(--c); stroke-width: 5; stroke-linecap: round }
.mark { stroke: var(--c); stroke-width: 2 }
.d1 { stroke-dasharray: 7 4 } .d2 { stroke-dasharray: 2 4 }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--soft);
  pointer-events: none }
.tip { position: absolute; top: .3rem; z-index: 1; padding: .35rem .6rem; border-radius: 6px;
  background: var(--back); color: var(--ink); border: 1px solid var(--line);
  pointer-events: none; white-space: nowrap }
.tip div { display: flex; justify-content: space-between; gap: 1rem }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px }
@media print {
  main { max-width: none; padding: 0 }
  table { font-size: .7rem } .scroll { overflow: visible }
  th, td { padding: .2rem .4rem }
  .charts { grid-template-columns: 1fr 1fr }
  h2, h3 { break-after: avoid }
}
"""

# A line's points are in its data-points, x0 y0 x1 y1 …; its class is its colour's. Text alone is
# set, never markup.
SCRIPT = """
'use strict';
const number = v => Number(v.toPrecision(4)).toLocaleString('en', {maximumSignificantDigits: 4});
for (const area of document.querySelectorAll('.area')) {
  const [low, high] = area.dataset.range.split(' ').map(Number);
  const lines = [...area.querySelectorAll('[data-points]')].map(line => {
    const v = line.dataset.points.split(' ').map(Number);
    const points = v.flatMap((x, i) => i % 2 ? [] : [[x, v[i + 1]]]);
    return {label: line.dataset.label, color: line.classList[1], points};
  });
  const places = [...new Set(lines.flatMap(l => l.points.map(p => p[0])))].sort((a, b) => a - b);
  const cursor = document.createElement('div'), tip = document.createElement('div');
  cursor.className = 'cursor'; tip.className = 'tip'; tip.setAttribute('role', 'status');
  cursor.hidden = tip.hidden = true;
  area.append(cursor, tip);
  const nearest = (points, x) => points.reduce(
    (best, p) => Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best);
  let at = places.length - 1;
  const show = index => {
    if (!places.length) return;
    at = Math.max(0, Math.min(places.length - 1, index));
    const x = places[at], share = (x - low) / (high - low || 1);
    const rows = [['step', Math.round(x).toLocaleString('en'), '']];
    for (const line of lines) {
      const [px, py] = nearest(line.points, x);
      // A run that has no point near this step has no value here.
      if (Math.abs(px - x) <= (high - low) / 25) rows.push([line.label, number(py), line.color]);
    }
    tip.replaceChildren(...rows.map(([label, value, color]) => {
      const row = document.createElement('div');
      const name = document.createElement('span'), figure = document.createElement('span');
      if (color) name.className = 'run ' + color;
      name.textContent = label; figure.textContent = value;
      row.append(name, figure);
      return row;
    }));
    cursor.style.left = 100 * share + '%';
    tip.style.left = share < .5 ? `calc(${100 * share}% + 10px)` : 'auto';
    tip.style.right = share < .5 ? 'auto' : `calc(${100 - 100 * share}% + 10px)`;
    cursor.hidden = tip.hidden = false;
  };
  const hide = () => { cursor.hidden = tip.hidden = true };
  area.addEventListener('pointermove', event => {
    const box = area.getBoundingClientRect();
    const x = low + (event.clientX - box.left) / box.width * (high - low);
    show(places.indexOf(nearest(places.map(p => [p]), x)[0]));
  });
  area.addEventListener('pointerleave', hide);
  area.addEventListener('blur', hide);
  area.addEventListener('keydown', event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by) { show(tip.hidden ? at : at + by); event.preventDefault(); }
    if (event.key === 'Escape') hide();
  });
}
"""
