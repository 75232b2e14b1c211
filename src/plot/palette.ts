/** The colours of all pictures and pages, each as it is on light paper and on a dark screen. */
export const palette = {
  paper: { light: '#ffffff', dark: '#16191d' },
  ink: { light: '#1f2328', dark: '#e3e6ea' },
  quiet: { light: '#656d76', dark: '#9aa4af' },
  line: { light: '#d0d7de', dark: '#3a4149' },
  /** A barrier, and the same while writes admitted before it are finished. */
  barrier: { light: '#2f6fb0', dark: '#4d8fd3' },
  draining: { light: '#9fc3e8', dark: '#2c4f73' },
  parked: { light: '#d2622f', dark: '#f08a55' },
  copied: { light: '#4a9d5b', dark: '#5fb573' },
  copying: { light: '#d9ecdd', dark: '#22392a' },
  together: { light: '#fff3c4', dark: '#4a4113' },
} as const;

/** The colours as pictures have them. A page turns them into the dark ones by {@link darkColours}. */
export const colours = Object.fromEntries(
  Object.entries(palette).map(([name, { light }]) => [name, light]),
) as Record<keyof typeof palette, string>;

/** Colours for things that only have to be told apart, on light and on dark. */
export const distinct = [
  '#2f7fc8',
  '#d2622f',
  '#4a9d5b',
  '#9467bd',
  '#b8860b',
  '#17a2a8',
  '#d6619f',
  '#7f7f7f',
];

/** Style rules that show a picture within a page in the dark colours: they outweigh what its elements say themselves. */
export const darkColours = Object.values(palette)
  .flatMap(({ light, dark }) =>
    ['fill', 'stroke'].map((what) => `svg [${what}="${light}"] { ${what}: ${dark}; }`),
  )
  .join('\n');
