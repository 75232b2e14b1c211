import type { Random } from '#src/runtime/random';

/** Deals every card once in each turn, in a new order each time, so that even a short run meets all of them. */
export class Deck<T> {
  #left: T[] = [];

  constructor(
    private readonly cards: readonly [T, ...T[]],
    private readonly random: Random,
  ) {}

  draw(): T {
    if (this.#left.length === 0) this.#left = [...this.cards];
    const [card = this.cards[0]] = this.#left.splice(this.random.below(this.#left.length), 1);
    return card;
  }
}
