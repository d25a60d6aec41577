"""The page of several runs: accuracy against sparsity and FLOPs, budgets side
by side, thresholds, and a table. One file that needs no other.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from str_jax.training import (
  heat_map,
  html,
  published,
  records,
  runs,
  runs_pictures,
)
from str_jax.training.html import duration, number, percent, short
from str_jax.training.runs import Run


def write(workdirs: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
  """Writes one page of several runs.

  Args:
    workdirs: folders of runs, each named once. Runs that are not finished are
      named on the page and left out.
    out: the page, in a folder that there is. It is replaced in one go.

  Returns:
    Its path.

  Raises:
    FileNotFoundError: a folder is that of no run.
    ValueError: no run is finished, or a file of one is damaged.
    OSError: the page cannot be written.
  """
  shown, notes = runs.read(map(pathlib.Path, workdirs))
  records.write_text(pathlib.Path(out), text(shown, notes))
  return pathlib.Path(out)


def text(shown: Sequence[Run], notes: Iterable[str]) -> str:
  """The page of runs that were read.

  Args:
    shown: the runs, as `runs.read` gives them.
    notes: what a reader must know of them.

  Returns:
    The page.
  """
  datasets = list(dict.fromkeys(run.summary['dataset'] for run in shown))
  numbers = {run.name: index for index, run in enumerate(shown, start=1)}
  said = '\n'.join(notes)
  runs_ = '1 run' if len(shown) == 1 else f'{len(shown)} runs'
  body = f"""{f'<p class="note">{escape(said)}</p>' if said else ''}
{''.join(_accuracy(shown, name, i) for i, name in enumerate(datasets))}
<h2>All runs</h2>
{_table(shown, numbers)}
<h2>Budgets side by side</h2>
{_budgets(shown, numbers)}
<h2>Thresholds over training</h2>
{_thresholds(shown, numbers)}"""
  return html.page(f'{runs_} on {", ".join(datasets)}', body, heat_map.style())


def _accuracy(shown: Sequence[Run], dataset: str, index: int) -> str:
  """The two pictures of accuracy, of the runs on one data set."""
  here = [run for run in shown if run.summary['dataset'] == dataset]
  reference = [
    point
    for model, _, dense_flops in runs.networks(here)
    for point in published.points(model, dataset, dense_flops)
  ]
  if reference:
    compared = (
      'Hollow and grey: what was published for the same network and data set.'
    )
  else:
    compared = (
      'No published points: those of the papers are of other networks or data.'
    )
  figures = html.figures(
    (
      f'Accuracy against {title}',
      said,
      runs_pictures.accuracy(
        against, here, reference, f'accuracy-{against}-{index}'
      ),
    )
    for against, title, said in (
      ('sparsity', 'sparsity', 'Up and to the right is better.'),
      ('flops', 'FLOPs', 'A multiply-add is one.'),
    )
  )
  return f"""<h2>Accuracy on {escape(dataset)}</h2>
<p>Test accuracy of the last checkpoint. A line joins the runs of one method.
Runs that differ in their seed alone are one point, their mean, with a bar of
one standard deviation to each side; pale beside it, each of them.
{compared}</p>
{figures}
"""


def _table(shown: Sequence[Run], numbers: Mapping[str, int]) -> str:
  groups = runs.groups(shown)
  networks = runs.networks(shown)
  # What is the same for all runs, or stands nowhere, is no column.
  given = {
    'Network': len(networks) > 1,
    'Data set': len({run.summary['dataset'] for run in shown}) > 1,
    '±': len(groups) < len(shown),
  }
  rows = []
  for group in groups:
    for run in group:
      cells = _cells([run], networks)
      rows.append(_row(str(numbers[run.name]), cells, given))
    if len(group) > 1:
      rows.append(_row('mean', _cells(group, networks), given, 'mean'))
  said = """<p>Accuracy is the last checkpoint's, on test. A line in bold is the
mean of the runs above it, which differ in their seed alone; ± is the standard
deviation of a sample (n − 1), in points.</p>
"""
  names = [name for name, _ in _cells(shown[:1], networks)]
  heads = ['Run', *(name for name in names if given.get(name, True))]
  return said + html.table('All runs', heads, '\n'.join(rows), kind='left')


def _row(
  head: str,
  cells: Sequence[tuple[str, str]],
  given: Mapping[str, bool],
  kind: str = '',
) -> str:
  return html.row(
    head, (cell for name, cell in cells if given.get(name, True)), kind
  )


def _cells(
  group: Sequence[Run], networks: Mapping[tuple[str, int, int], str]
) -> list[tuple[str, str]]:
  """The columns of a run, or of the mean of those that differ in the seed."""
  first, several = group[0], len(group) > 1
  sparsity, sparsities = runs.mean(group, 'sparsity')
  top1, top1s = runs.mean(group, 'top1')
  flops, _ = runs.mean(group, 'flops')
  seconds, _ = runs.mean(group, 'seconds')
  seed = html.UNKNOWN if first.seed is None else str(first.seed)
  return [
    ('Method', first.method),
    ('Network', networks[first.network]),
    ('Data set', first.summary['dataset']),
    ('Sparsity', percent(sparsity)),
    ('±', number(100 * sparsities, '.2f') if several else ''),
    ('Accuracy', percent(top1)),
    ('±', number(100 * top1s, '.2f') if several else ''),
    ('FLOPs', short(flops)),
    ('of dense', percent(flops, first.summary['dense_flops'])),
    ('Time', duration(seconds)),
    ('Steps', number(first.summary['steps'])),
    ('Seed', f'{len(group)} runs' if several else seed),
    ('Folder', '' if several else first.name),
  ]


def _budgets(shown: Sequence[Run], numbers: Mapping[str, int]) -> str:
  parts = [
    '<p>Zeros in percent: a row a layer, from the first to the last, a column '
    'a run, numbered as in the table above. The deeper the colour, the less is '
    'kept, on a logarithmic scale.</p>',
    heat_map.scale(),
  ]
  networks = runs.networks(shown)
  for network, name in networks.items():
    if len(networks) > 1:
      parts.append(f'<h3>{escape(name)}</h3>')
    same = [run for run in shown if run.network == network]
    parts.append(heat_map.table(same, numbers))
  return '\n'.join(parts)


def _thresholds(shown: Sequence[Run], numbers: Mapping[str, int]) -> str:
  drawn = [run for run in shown if _has_thresholds(run)]
  without = [run.name for run in shown if run not in drawn]
  parts = []
  if drawn:
    parts += [
      '<p>Weights of at most this magnitude are zero. A line is a layer, in '
      'the colour that it has on the page of its run: where there are many, '
      'from blue for the first to orange for the last. Each picture has a '
      'scale of its own.</p>',
      html.figures(
        (
          (
            f'{numbers[run.name]}',
            escape(f'{run.name} ({run.method})'),
            runs_pictures.thresholds(run, f'thresholds-{numbers[run.name]}'),
          )
          for run in drawn
        ),
        'small',
      ),
    ]
  if without:
    parts.append(
      f'<p>No threshold was logged by: {escape(", ".join(without))}.</p>'
    )
  return '\n'.join(parts)


def _has_thresholds(run: Run) -> bool:
  return any(record.get('layer_threshold') for record in run.metrics)
