"""What tests of the pages start from: files of runs, and a real browser."""

import html
import json
import shutil
import subprocess

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None
)
NAMES = ('stem', 'block/<conv>', 'head$a_b$')


def layer(name, weights=200, nonzero=50, threshold=0.021):
  return {
    'name': name,
    'shape': [weights // 10, 10],
    'weights': weights,
    'nonzero': nonzero,
    'sparsity': 1 - nonzero / weights,
    'threshold': threshold,
    'dense_flops': 64 * weights,
    'flops': 64 * nonzero,
  }


def summary(**changed):
  return {
    'config': {'seed': 7, 'optim': {'learning_rate': 0.125, 'name': '<sgd>'}},
    'command': 'python main.py --config=configs/digits.py:str',
    'config_name': 'digits',
    'variant': 'str',
    'method': 'STR(init_value=-5.0)',
    'model': 'convnet',
    'dataset': 'digits',
    'note': '',
    'steps': 1200,
    'top1': 0.9811,
    'best_top1': 0.9833,
    'best_step': 1100,
    'eval_loss': 0.07,
    'sparsity': 0.75,
    'weights': 600,
    'nonzero': 150,
    'dense_flops': 38400,
    'flops': 9600,
    'layers': [layer(name) for name in NAMES],
    'seconds': 21.3,
    'examples_per_second': 4100.0,
    'device': '2 x cpu',
    'versions': {'jax': '0.10.2'},
    **changed,
  }


def train(step, names=NAMES, **changed):
  return {
    'kind': 'train',
    'step': step,
    'loss': 1 / step,
    'accuracy': 0.5,
    'sparsity': 0.3,
    'layer_sparsity': dict.fromkeys(names, 0.3),
    'layer_threshold': dict.fromkeys(names, 0.01),
    **changed,
  }


def validation(step):
  return {'kind': 'validation', 'step': step, 'loss': 0.2, 'accuracy': 0.9}


def leave(folder, metrics=(), **changed):
  """Leaves what a finished run leaves for its page."""
  folder.mkdir(exist_ok=True)
  (folder / 'summary.json').write_text(json.dumps(summary(**changed)))
  lines = ''.join(json.dumps(record) + '\n' for record in metrics)
  (folder / 'metrics.jsonl').write_text(lines)
  return folder


# What is wrong with a page in a frame: it is dark though it should be light,
# wider than the frame, loads something; text is cut, or lies on other text.
FAULTS = """
  const faults = (page, dark) => {
    const root = page.document.documentElement, found = [];
    const all = (what) => [...page.document.querySelectorAll(what)];
    if (page.matchMedia('(prefers-color-scheme: dark)').matches != dark)
      found.push('scheme');
    const paper = page.getComputedStyle(page.document.body).backgroundColor;
    if (paper != (dark ? 'rgb(20, 23, 26)' : 'rgb(255, 255, 255)'))
      found.push('paper ' + paper);
    if (root.scrollWidth > root.clientWidth) found.push('wider');
    if (page.performance.getEntriesByType('resource').length)
      found.push('loads');
    if (all('svg').some((svg) => svg.getBoundingClientRect().width < 120))
      found.push('small');
    for (const part of all('main *:not(svg *)')) {
      const style = page.getComputedStyle(part);
      const cut = part.scrollWidth > part.clientWidth + 1;
      if (cut && part.clientWidth && !part.title && style.overflowX != 'auto')
        found.push('cut ' + part.tagName + ' ' + part.textContent);
    }
    for (const svg of all('svg')) {
      const box = svg.getBoundingClientRect();
      const texts = [...svg.querySelectorAll('text')].map((text) =>
        [text.textContent, text.getBoundingClientRect()]);
      for (const [i, [said, a]] of texts.entries()) {
        if (a.left < box.left - 1 || a.right > box.right + 1 ||
            a.top < box.top - 1 || a.bottom > box.bottom + 1)
          found.push('outside ' + said);
        for (const [other, b] of texts.slice(i + 1))
          if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
              Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
            found.push(said + ' on ' + other);
      }
    }
    return found;
  };
"""
_FLAGS = (
  '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run'
  ' --disable-background-networking --disable-component-update'
  ' --disable-sync --enable-logging=stderr --dump-dom'
)


def look(folder, texts, dark):
  """Opens pages at a phone's width and at a desk's.

  Args:
    folder: for the browser's own files.
    texts: the pages.
    dark: whether the reader likes it dark.

  Returns:
    A list of faults for each page and width, and what the browser printed.
  """
  # In frames, as a browser's own window may refuse to be as narrow.
  frames = ''.join(
    f'<iframe width="{width}" height="800" srcdoc="{html.escape(text)}">'
    '</iframe>'
    for text in texts
    for width in (400, 1200)
  )
  path = folder / 'frames.html'
  path.write_text(f"""<meta charset="utf-8"/>{frames}<pre id="out"></pre>
    <script>{FAULTS} onload = () => {{
      document.querySelector('#out').textContent = JSON.stringify(
        [...document.querySelectorAll('iframe')].map((frame) =>
          faults(frame.contentWindow, {str(dark).lower()})));
      document.querySelectorAll('iframe').forEach((frame) => frame.remove());
    }}</script>""")
  scheme = f'--blink-settings=preferredColorScheme={0 if dark else 1}'
  profile = f'--user-data-dir={folder / "browser"}'
  done = subprocess.run(
    [BROWSER, *_FLAGS.split(), scheme, profile, path.as_uri()],
    capture_output=True,
    text=True,
    timeout=100,
  )
  out = done.stdout.partition('<pre id="out">')[2].partition('</pre>')[0]
  return json.loads(html.unescape(out)), done.stderr
