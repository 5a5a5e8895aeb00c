// Type declarations for the parts of Preact's signals that the dashboard uses.
export interface Signal<T> {
  value: T;
}
export function signal<T>(first: T): Signal<T>;
export function computed<T>(make: () => T): { readonly value: T };
export function effect(act: () => void | (() => void)): () => void;
export function batch<T>(act: () => T): T;
