// Runs once for each part of the page that is HTML, with Gradio's `element` and `trigger`.
// What Gradio has no part for: pictures and thumbnails that are chosen by mouse, touch and keys, and a brush.
const chosen = name => document.querySelector(`#${name} input:checked`)?.value ?? '';

element.addEventListener('click', event => {
  const button = event.target.closest('button[data-map], button[data-label], button[data-picture]');
  if (!button) return;
  for (const other of button.parentElement.querySelectorAll('[aria-pressed]')) other.setAttribute('aria-pressed', other === button);
  trigger('select', { ...button.dataset });
});

// What is pressed is what the address says: an answer to an earlier click, drawn before a later one, may say otherwise.
const press = () => {
  const view = new URLSearchParams(location.search);
  for (const [kind, now] of [['map', view.get('map')], ['label', view.get('class')]])
    if (now !== null) for (const button of element.querySelectorAll(`button[data-${kind}]`)) button.setAttribute('aria-pressed', button.dataset[kind] === now);
};
addEventListener('zx-view', press);

// Arrows walk through buttons that stand in rows.
element.addEventListener('keydown', event => {
  const button = event.target.closest('.zx-maps button, .zx-classes button');
  if (!button || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  const all = [...button.parentElement.querySelectorAll('button')], at = all.indexOf(button);
  const below = all.filter(other => Math.abs(other.offsetLeft - button.offsetLeft) < 4);
  const next = {
    ArrowRight: all[at + 1], ArrowLeft: all[at - 1], Home: all[0], End: all[all.length - 1],
    ArrowDown: below[below.indexOf(button) + 1], ArrowUp: below[below.indexOf(button) - 1],
  }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
});

// The picture: a cross that keys move, and a brush.
let cross = null, stroke = null;
const stage = () => element.querySelector('.zx-stage');
const sizes = () => { const { size, cells } = stage().dataset; return { size: +size, cells: +cells }; };

// The cross is where the view asks, also in a page that was just opened, until somebody moves it.
let asked = null;
const settle = () => {
  const { picture, row, column } = stage()?.dataset ?? {}, now = `${picture} ${row} ${column}`;
  if (now === asked) return;
  asked = now;
  cross = row === undefined ? null : { row: +row, column: +column };
};

const show = () => {
  const mark = stage()?.querySelector('.zx-cross');
  if (!mark) return;
  mark.hidden = !cross;
  if (!cross) return;
  const { size } = sizes();
  mark.style.top = `${100 * (cross.row + .5) / size}%`;
  mark.style.left = `${100 * (cross.column + .5) / size}%`;
};

const pixel = event => {
  const box = stage().querySelector('img').getBoundingClientRect(), { size } = sizes();
  const at = (far, near, length) => Math.min(Math.max(Math.floor(size * (far - near) / length), 0), size - 1);
  return { row: at(event.clientY, box.top, box.height), column: at(event.clientX, box.left, box.width) };
};

const cell = ({ row, column }) => {
  const { size, cells } = sizes();
  return [Math.floor(row * cells / size), Math.floor(column * cells / size)];
};

const dab = at => {
  const { cells } = sizes(), width = +chosen('zx-width') || 2, [row, column] = cell(at);
  const before = Math.floor((width - 1) / 2);
  const mark = document.createElement('span');
  mark.className = 'zx-dab';
  Object.assign(mark.style, {
    top: `${100 * (row - before) / cells}%`, left: `${100 * (column - before) / cells}%`,
    width: `${100 * width / cells}%`, height: `${100 * width / cells}%`,
  });
  stage().append(mark);
  stroke.add(`${row},${column}`);
};

const done = () => {
  const cells = [...stroke].map(text => text.split(',').map(Number));
  stroke = null;
  if (!paints()) asked = `${stage().dataset.picture} ${cross.row} ${cross.column}`;
  trigger('select', { ...cross, cells, how: chosen('zx-how'), width: +chosen('zx-width') || 2 });
};

const paints = () => chosen('zx-how') !== 'look';

element.addEventListener('pointerdown', event => {
  if (!event.target.closest('.zx-stage') || event.button) return;
  cross = pixel(event);
  stroke = new Set();
  if (paints()) dab(cross);
  event.target.setPointerCapture?.(event.pointerId);
  show();
});
element.addEventListener('pointermove', event => {
  if (!stroke || !paints() || !stage()) return;
  const from = cross, to = pixel(event);
  const steps = Math.max(Math.abs(to.row - from.row), Math.abs(to.column - from.column), 1);
  for (let i = 1; i <= steps; i++) {
    cross = { row: Math.round(from.row + (to.row - from.row) * i / steps), column: Math.round(from.column + (to.column - from.column) * i / steps) };
    if (!stroke.has(cell(cross).join(','))) dab(cross);
  }
  show();
});
element.addEventListener('pointerup', () => stroke && done());
element.addEventListener('pointercancel', () => { // as when a finger scrolls
  stroke = asked = null;
  element.querySelectorAll('.zx-dab').forEach(mark => mark.remove());
  settle();
  show();
});

element.addEventListener('keydown', event => {
  if (!event.target.closest('.zx-stage') || event.ctrlKey || event.altKey || event.metaKey) return;
  const { size, cells } = sizes(), step = event.shiftKey ? 1 : Math.max(1, Math.round(size / cells));
  const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
  cross ??= { row: Math.floor(size / 2), column: Math.floor(size / 2) };
  if (moves[event.key]) {
    const inside = value => Math.min(Math.max(value, 0), size - 1);
    cross = { row: inside(cross.row + moves[event.key][0]), column: inside(cross.column + moves[event.key][1]) };
  } else if (event.key === 'Enter' || event.key === ' ') {
    stroke = new Set();
    if (paints()) dab(cross);
    done();
  } else return;
  event.preventDefault();
  show();
});

// New pictures replace the old ones: the cross stays, and so does the focus.
let held = null;
element.addEventListener('focusin', event => { held = event.target.closest('.zx-stage') ? '.zx-stage' : event.target.dataset?.map ? `button[data-map="${event.target.dataset.map}"]` : event.target.dataset?.label ? `button[data-label="${event.target.dataset.label}"]` : null; });
watch('value', () => {
  press();
  settle();
  show();
  if (held && document.activeElement === document.body) element.querySelector(held)?.focus();
});
