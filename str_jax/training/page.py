"""The page that a run leaves: `report.html`, one file that needs no other.

It is made from `summary.json` and `metrics.jsonl` alone: it can be written
again at any time, and the same files give the same page, byte for byte.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from html import escape

from str_jax.training import html, pictures, records, summaries
from str_jax.training.drawing import Record, thinned
from str_jax.training.html import duration, number, percent, short

# A picture is some 400 points wide: more would only make the file larger.
POINTS = 400


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `workdir/report.html` from the files that the run left there.

  Args:
    workdir: the folder of a run, with `summary.json` and `metrics.jsonl`. A
      last line of `metrics.jsonl` that a kill cut short is left out.

  Returns:
    The path of the page. It is replaced in one go, never half written.

  Raises:
    FileNotFoundError: there is no summary.json.
    ValueError: one of the two files is damaged or lacks a field.
  """
  folder = pathlib.Path(workdir)
  path = folder / 'report.html'
  records.write_text(path, _page(*summaries.read(folder)))
  return path


def _page(summary: Record, metrics: Sequence[Record]) -> str:
  note = escape(str(summary['note'] or ''))
  layers = summary['layers']
  body = f"""<p class="quiet"><code>{escape(str(summary['method']))}</code></p>
{f'<p class="note">{note}</p>' if note else ''}
{_headline(summary)}
{_rounds(summary.get('rounds', ()))}
<h2>Layer by layer</h2>
{_layer_figures(layers)}
<h2>Over training</h2>
{_training_figures([layer['name'] for layer in layers], metrics)}
<h2>Every layer</h2>
{_table(summary)}
<h2>Repeat it</h2>
<pre><code>{escape(summary['command'])}</code></pre>
<h2>Settings</h2>
{_nested(summary['config'])}
<h2>Versions</h2>
{_nested(summary['versions'])}"""
  return html.page(f'{summary["model"]} on {summary["dataset"]}', body)


def _headline(s: Record) -> str:
  last = 'last checkpoint'
  if s['best_top1'] is not None:
    last += (
      f'; {percent(s["best_top1"])} at step {number(s["best_step"])}, the'
      ' best on validation'
    )
  kept = percent(s['nonzero'], s['weights'])
  flops = f'{short(s["flops"])} of {short(s["dense_flops"])}'
  numbers = (
    ('Test accuracy', percent(s['top1']), last),
    ('Sparsity', percent(s['sparsity']), 'of the weights are zero'),
    (
      'Weights kept',
      short(s['nonzero']),
      f'{kept} of {short(s["weights"])}',
    ),
    (
      'FLOPs of dense',
      percent(s['flops'], s['dense_flops']),
      f'{flops} multiply-adds an example',
    ),
  )
  cards = '\n'.join(
    f'<div><dt>{name}</dt><dd>{number}</dd><dd>{said}</dd></div>'
    for name, number, said in numbers
  )
  facts = (
    f'{number(s["steps"])} steps in {duration(s["seconds"])},'
    f' {number(s["examples_per_second"])} examples a second on {s["device"]};'
    f' test loss {number(s["eval_loss"], ".4g")}.'
  )
  return f'<dl>\n{cards}\n</dl>\n<p class="quiet">{escape(facts)}</p>'


def _rounds(rounds: Sequence[Record]) -> str:
  """The runs of iterative pruning, of which the page shows the last."""
  if not rounds:
    return ''
  rows = '\n'.join(
    html.row(
      str(index),
      (
        percent(done['sparsity']),
        number(done['nonzero']),
        percent(done['top1']),
      ),
    )
    for index, done in enumerate(rounds)
  )
  heads = ('Round', 'Sparsity', 'Kept', 'Test accuracy')
  return f"""<h2>Round by round</h2>
{html.table('Round by round', heads, rows)}
<p class="quiet">What follows is the last round's.</p>"""


def _layer_figures(layers: Sequence[Record]) -> str:
  if not layers:
    return '<p>The net has no layer whose weights are counted.</p>'
  zeros = pictures.sparsity_by_layer(layers)
  flops = pictures.flops_by_layer(layers)
  return html.figures(
    (
      ('Sparsity by layer', 'The share of zeros, first to last.', zeros),
      ('FLOPs by layer', 'Dense in grey, what is left in colour.', flops),
    )
  )


def _training_figures(names: Sequence[str], metrics: Sequence[Record]) -> str:
  kinds: dict[str, Sequence[Record]] = {
    kind: [record for record in metrics if record.get('kind') == kind]
    for kind in pictures.KINDS
  }
  train = kinds['train']
  if not train:
    return '<p>The run ended before its first logged step.</p>'
  words = ''
  stride, train = thinned(train, POINTS)
  kinds['train'] = train
  if stride > 1:
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
  return words + html.figures(figures)


def _table(summary: Record) -> str:
  heads = ('Layer', 'Shape', 'Weights', 'Kept', 'Sparsity', 'Threshold')
  rows = '\n'.join(_row(layer) for layer in summary['layers'])
  total = _row({**summary, 'name': 'All', 'shape': (), 'threshold': None})
  return html.table('Every layer', (*heads, 'FLOPs', 'Dense'), rows, total)


def _row(layer: Record) -> str:
  cells = (
    ' × '.join(map(str, layer['shape'])),
    number(layer['weights']),
    number(layer['nonzero']),
    percent(layer['sparsity']),
    number(layer['threshold'], '.4g'),
    number(layer['flops']),
    number(layer['dense_flops']),
  )
  return html.row(str(layer['name']), cells)


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
