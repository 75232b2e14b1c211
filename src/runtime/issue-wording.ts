import { inspect } from 'node:util';
import type { z } from 'zod';

/**
 * What is wrong with a field, in words that go after its name; for zod's `error`. The library's own sentences speak of
 * JavaScript. What a schema says itself comes before this.
 */
export function inWords(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case 'unrecognized_keys': {
      const known = fieldsOf(issue.inst);
      const those = known.length === 0 ? '' : `; the fields are ${known.join(', ')}`;
      return `there is no field ${issue.keys.join(', ')}${those}`;
    }
    case 'invalid_type':
      return issue.input === undefined
        ? 'is missing'
        : `must be ${nameOf(issue.expected)}, not ${shown(issue.input)}`;
    case 'invalid_value': {
      const values = issue.values.map(String);
      const wanted = values.length === 1 ? `${values[0]}` : `one of ${values.join(', ')}`;
      return issue.input === undefined
        ? `is missing; it is ${wanted}`
        : `must be ${wanted}, not ${shown(issue.input)}`;
    }
    case 'too_small':
      return bound(issue.origin, issue.inclusive ? 'at least' : 'above', issue.minimum, issue.input);
    case 'too_big':
      return bound(issue.origin, issue.inclusive ? 'at most' : 'below', issue.maximum, issue.input);
    case 'invalid_union':
      // Which of several forms an object has, its field tells.
      return issue.discriminator === undefined ? undefined : 'is missing, or none of those that there are';
    case 'custom':
    case 'invalid_element':
    case 'invalid_format':
    case 'invalid_key':
    case 'not_multiple_of':
      return undefined;
  }
}

/** Of an issue: the field, as it would be written in a program, and what is wrong with it. */
export function issueInWords({ code, path, message }: z.core.$ZodIssue): string {
  const field = path.map(String).join('.');
  if (field === '' && code === 'unrecognized_keys') return message;
  return `${field || 'the whole'}: ${message}`;
}

function fieldsOf(schema: unknown): string[] {
  const { _zod: internals } = schema as { _zod?: { def: { shape?: object } } };
  return Object.keys(internals?.def.shape ?? {});
}

function bound(origin: string, comparison: string, limit: number | bigint, input: unknown): string {
  if (origin === 'string') return `must have ${comparison} ${limit} characters`;
  if (origin === 'array') return `must have ${comparison} ${limit} of them`;
  return `must be ${comparison} ${limit}, not ${shown(input)}`;
}

const names: Readonly<Record<string, string>> = {
  array: 'a list',
  boolean: 'true or false',
  int: 'a whole number',
  number: 'a number',
  object: 'an object',
  string: 'text',
};

function nameOf(type: string): string {
  return names[type] ?? type;
}

/** Text and numbers as they are; of what is larger only what it is. */
function shown(input: unknown): string {
  if (input === null) return 'null';
  if (typeof input === 'object') return Array.isArray(input) ? 'a list' : 'an object';
  // Numbers that JSON has not, and functions, come from programs.
  const text = typeof input === 'string' ? JSON.stringify(input) : inspect(input);
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
