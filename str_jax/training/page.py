"""The page that a run leaves: `report.html`, one file that needs no other.

It is made from `summary.json` and `metrics.jsonl` alone: it can be written
again at any time, and the same files give the same page, byte for byte.
"""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from html import escape

from str_jax.training import pictures, records
from str_jax.training.pictures import Record, finite

# A picture is some 400 points wide: more would only make the file larger.
POINTS = 400
UNKNOWN = '–'
CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126;
  --quiet: #59646e; --rule: #d9dfe4; --card: #f4f6f8;
  --train: #0072b2; --validation: #d55e00; --test: #008a66; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a;
  --ink: #e4e8eb; --quiet: #a0abb5; --rule: #333b42; --card: #1e2328;
  --train: #56b4e9; --validation: #e69f00; --test: #2cc29a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 1120px; margin: auto; padding: 24px 16px 48px; }
h1 { margin: 0; line-height: 1.2; }
h2 { margin: 40px 0 12px; padding-top: 12px; font-size: 1.25em;
  border-top: 1px solid var(--rule); }
p, figure { margin: 8px 0; }
.quiet, figcaption, dt, dd { color: var(--quiet); }
.note, pre, dl div { padding: 10px 14px; background: var(--card);
  border-radius: 6px; }
.note { white-space: pre-line; }
code, ul { font: 15px/1.5 ui-monospace, monospace; }
pre, .table { overflow-x: auto; overflow-wrap: normal; }
dl { display: grid; gap: 12px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); }
dl div, figcaption, table { font-size: 0.9em; }
dd { margin: 0; }
dd:nth-of-type(1) { color: var(--ink); font: 600 2.2em/1.3 system-ui; }
.figures { display: grid; gap: 20px 36px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
figure { min-width: 0; }
figcaption b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
table { border-collapse: collapse; width: 100%; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule);
  text-align: right; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { font-weight: 400; }
tfoot { font-weight: 600; }
ul { margin: 0; padding-left: 20px; list-style: none; }
main > ul { padding: 0; columns: 3 300px; }
main > ul > li { break-inside: avoid; }
"""


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `workdir/report.html` from the files that the run left there.

  Args:
    workdir: the folder of a run, with `summary.json` and `metrics.jsonl`. A
      last line of `metrics.jsonl` that a kill cut short is left out.

  Returns:
    The path of the page. It is replaced in one go, never half written.

  Raises:
    FileNotFoundError: there is no summary.json.
    ValueError: one of the two files is damaged.
  """
  folder = pathlib.Path(workdir)
  summary = records.read_json(folder / 'summary.json')
  metrics = records.read_lines(folder / 'metrics.jsonl')
  try:
    text = _page(summary, metrics)
  except KeyError as error:
    raise ValueError(
      f'{folder / "summary.json"} lacks {error}: run the training again with'
      ' this version, which writes it.'
    ) from error
  path = folder / 'report.html'
  records.write_text(path, text)
  return path


def _number(value: object, form: str = ',.0f') -> str:
  number = finite(value)
  return UNKNOWN if math.isnan(number) else format(number, form)


def _percent(part: object, whole: object = 1) -> str:
  return _number(finite(part) / (finite(whole) or math.nan), '.2%')


def _short(value: object) -> str:
  """A large count in three digits: 4.09 G, 123 k."""
  number = finite(value)
  for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if number >= size:
      return f'{number / size:.3g} {unit}'
  return _number(number)


def _duration(seconds: object) -> str:
  number = finite(seconds)
  for size, unit in ((86400, 'days'), (3600, 'hours'), (60, 'minutes')):
    if number >= 2 * size:
      return f'{number / size:.1f} {unit}'
  return f'{_number(seconds, ".3g")} seconds'


def _page(summary: Record, metrics: Sequence[Record]) -> str:
  title = escape(f'{summary["model"]} on {summary["dataset"]}')
  note = escape(str(summary['note'] or ''))
  layers = summary['layers']
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="quiet"><code>{escape(str(summary['method']))}</code></p>
{f'<p class="note">{note}</p>' if note else ''}
{_headline(summary)}
{_rounds(summary.get('rounds', ()))}
<h2>Layer by layer</h2>
{_layer_figures(layers)}
<h2>Over training</h2>
{_training_figures([str(layer['name']) for layer in layers], metrics)}
<h2>Every layer</h2>
{_table(summary)}
<h2>Repeat it</h2>
<pre><code>{escape(summary['command'])}</code></pre>
<h2>Settings</h2>
{_nested(summary['config'])}
<h2>Versions</h2>
{_nested(summary['versions'])}
</main>
</body>
</html>
"""


def _headline(s: Record) -> str:
  last = 'last checkpoint'
  if s['best_top1'] is not None:
    last += (
      f'; {_percent(s["best_top1"])} at step {_number(s["best_step"])}, the'
      ' best on validation'
    )
  kept = _percent(s['nonzero'], s['weights'])
  flops = f'{_short(s["flops"])} of {_short(s["dense_flops"])}'
  numbers = (
    ('Test accuracy', _percent(s['top1']), last),
    ('Sparsity', _percent(s['sparsity']), 'of the weights are zero'),
    ('Weights kept', _short(s['nonzero']), f'{kept} of {_short(s["weights"])}'),
    (
      'FLOPs of dense',
      _percent(s['flops'], s['dense_flops']),
      f'{flops} multiply-adds an example',
    ),
  )
  cards = '\n'.join(
    f'<div><dt>{name}</dt><dd>{number}</dd><dd>{said}</dd></div>'
    for name, number, said in numbers
  )
  facts = (
    f'{_number(s["steps"])} steps in {_duration(s["seconds"])},'
    f' {_number(s["examples_per_second"])} examples a second on {s["device"]};'
    f' test loss {_number(s["eval_loss"], ".4g")}.'
  )
  return f'<dl>\n{cards}\n</dl>\n<p class="quiet">{escape(facts)}</p>'


def _rounds(rounds: Sequence[Record]) -> str:
  """The runs of iterative pruning, of which the page shows the last."""
  if not rounds:
    return ''
  rows = '\n'.join(
    f'<tr><th scope="row">{number}</th><td>{_percent(row["sparsity"])}</td>'
    f'<td>{_number(row["nonzero"])}</td><td>{_percent(row["top1"])}</td></tr>'
    for number, row in enumerate(rounds)
  )
  heads = ('Round', 'Sparsity', 'Kept', 'Test accuracy')
  columns = ''.join(f'<th scope="col">{head}</th>' for head in heads)
  return f"""<h2>Round by round</h2>
<table>
<thead><tr>{columns}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p class="quiet">What follows is the last round's.</p>"""


def _figures(figures: Sequence[tuple[str, str, str]]) -> str:
  """Pictures in a grid, each given as its title, a sentence and an SVG."""
  shown = '\n'.join(
    f'<figure>\n<figcaption><b>{title}.</b> {said}</figcaption>\n'
    + svg.replace('<svg ', f'<svg role="img" aria-label="{title}. {said}" ', 1)
    + '\n</figure>'
    for title, said, svg in figures
  )
  return f'<div class="figures">\n{shown}\n</div>'


def _layer_figures(layers: Sequence[Record]) -> str:
  if not layers:
    return '<p>The net has no layer whose weights are counted.</p>'
  zeros = pictures.sparsity_by_layer(layers)
  flops = pictures.flops_by_layer(layers)
  return _figures(
    (
      ('Sparsity by layer', 'The share of zeros, first to last.', zeros),
      ('FLOPs by layer', 'Dense in grey, what is left in colour.', flops),
    )
  )


def _training_figures(names: Sequence[str], metrics: Sequence[Record]) -> str:
  kinds = {
    kind: [record for record in metrics if record.get('kind') == kind]
    for kind in pictures.KINDS
  }
  train = kinds['train']
  if not train:
    return '<p>The run ended before its first logged step.</p>'
  words = ''
  if len(train) > POINTS:
    stride = math.ceil(len(train) / POINTS)
    # From the end, so that the last logged step is among those drawn.
    train = kinds['train'] = train[::-stride][::-1]
    words = f'<p>Of the logged training steps one in {stride} is drawn.</p>\n'
  zeros = pictures.sparsity(train, names)
  figures = [
    ('Sparsity', 'The whole net; thinner, its layers.', zeros),
    ('Loss', 'Lower is better.', pictures.loss(kinds)),
    ('Accuracy', 'Higher is better.', pictures.accuracy(kinds)),
  ]
  if any(record.get('layer_threshold') for record in train):
    said = 'Weights of at most this magnitude are zero.'
    drawn = pictures.thresholds(train, names)
    figures.insert(0, ('Thresholds', said, drawn))
  else:
    words += '<p>No layer has a threshold, so none is drawn.</p>\n'
  return words + _figures(figures)


def _table(summary: Record) -> str:
  heads = 'Shape', 'Weights', 'Kept', 'Sparsity', 'Threshold', 'FLOPs', 'Dense'
  rows = '\n'.join(_row(layer) for layer in summary['layers'])
  total = _row({**summary, 'name': 'All', 'shape': (), 'threshold': None})
  columns = ''.join(f'<th scope="col">{head}</th>' for head in heads)
  return f"""<div class="table" role="region" tabindex="0"
 aria-label="Every layer">
<table>
<thead><tr><th scope="col">Layer</th>{columns}</tr></thead>
<tbody>
{rows}
</tbody>
<tfoot>{total}</tfoot>
</table>
</div>"""


def _row(layer: Record) -> str:
  cells = (
    escape(' × '.join(map(str, layer['shape']))),
    _number(layer['weights']),
    _number(layer['nonzero']),
    _percent(layer['sparsity']),
    _number(layer['threshold'], '.4g'),
    _number(layer['flops']),
    _number(layer['dense_flops']),
  )
  values = ''.join(f'<td>{cell}</td>' for cell in cells)
  return f'<tr><th scope="row">{escape(str(layer["name"]))}</th>{values}</tr>'


def _nested(values: Record) -> str:
  """A list of keys and values; a value that has keys is a list in turn."""
  items = []
  for key, value in values.items():
    if isinstance(value, dict):
      shown = _nested(value)
    else:
      shown = f'<b>{escape(json.dumps(value, ensure_ascii=False))}</b>'
    items.append(f'<li>{escape(str(key))} {shown}</li>')
  return '<ul>\n' + '\n'.join(items) + '\n</ul>'
