import { dirname, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * What this rule uses of oxlint's plugin interface, which is ESLint's.
 *
 * @typedef {{ filename: string, options: [string[]], report(problem: { node: object, message: string }): void }} Context
 * @typedef {{ value: unknown, parent: { type: string } }} Literal
 * @typedef {{ quasis: { value: { cooked: string } }[] }} TemplateLiteral
 */

const root = fileURLToPath(new URL('../..', import.meta.url));

/**
 * An oxlint plugin with one rule, `layers/order`: a folder of src/ refers only to itself and to the folders before it
 * in the list that is the rule's option. A file directly in src/ is a layer by its own name. native/ is for `core`.
 *
 * Every string that looks like a relative path counts, whatever it is used for: imports of all kinds, types, workers,
 * and URLs made from `import.meta.url`.
 */
export default {
  meta: { name: 'layers' },
  rules: {
    order: {
      meta: { schema: [{ type: 'array', items: { type: 'string' } }] },
      create: checkFile,
    },
  },
};

/** @param {Context} context */
function checkFile(context) {
  const [layers] = context.options;
  const own = layerOf(context.filename);
  if (own === undefined) return {};

  /** @param {object} node @param {string | undefined} message */
  const report = (node, message) => {
    if (message !== undefined) context.report({ node, message });
  };
  /** @param {object} node @param {string} text */
  const checkText = (node, text) => {
    if (!/^(\.\.?|#src)\//.test(text)) return;
    const target = text.startsWith('#')
      ? resolve(root, text.slice(1))
      : resolve(dirname(context.filename), text);
    report(node, refusal(layers, own, target));
  };
  return {
    /** @param {object} program */
    Program(program) {
      if (!layers.includes(own))
        report(program, `src/${own} is not in the list of layers; give it its place there`);
    },
    /** @param {Literal} node */
    Literal(node) {
      if (typeof node.value !== 'string') return;
      checkText(node, node.value);
      const isModule = /^(Import|Export)/.test(node.parent.type);
      if (isModule && /^cofferdam(\/|$)/.test(node.value))
        report(node, 'within src/, import by a relative path');
    },
    /** @param {TemplateLiteral} node */
    TemplateLiteral(node) {
      checkText(node, node.quasis[0]?.value.cooked ?? '');
    },
  };
}

/**
 * @param {string} path absolute.
 * @returns {string | undefined} nothing outside src/.
 */
function layerOf(path) {
  const [top, layer] = relative(root, path).split(sep);
  return top === 'src' ? layer?.replace(/\.[^.]*$/, '') : undefined;
}

/**
 * Why a layer may not refer to a place, or nothing if it may.
 *
 * @param {string[]} layers
 * @param {string} own
 * @param {string} target absolute path.
 * @returns {string | undefined}
 */
function refusal(layers, own, target) {
  if (relative(root, target).split(sep)[0] === 'native') {
    return own === 'core' ? undefined : `src/${own} must not use native/: only src/core does`;
  }
  const layer = layerOf(target);
  if (layer === undefined || layers.indexOf(layer) <= layers.indexOf(own)) return undefined;
  return `src/${own} must not use src/${layer}: the order is ${layers.join(' < ')}`;
}
