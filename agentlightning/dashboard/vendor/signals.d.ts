// What the dashboard uses of Preact's signals, for the type checker.
export interface Signal<T> {
  value: T;
}
export function signal<T>(first: T): Signal<T>;
export function computed<T>(make: () => T): { readonly value: T };
export function effect(act: () => void | (() => void)): () => void;
export function batch<T>(act: () => T): T;
