// Type declarations for the parts of Preact's hooks that the dashboard uses.
export function useState<T>(first: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
export function useEffect(effect: () => void | (() => void), keys?: readonly any[]): void;
export function useLayoutEffect(effect: () => void | (() => void), keys?: readonly any[]): void;
export function useRef<T>(first: T): { current: T };
export function useMemo<T>(make: () => T, keys: readonly any[]): T;
export function useCallback<T extends (...given: any[]) => any>(callback: T, keys: readonly any[]): T;
