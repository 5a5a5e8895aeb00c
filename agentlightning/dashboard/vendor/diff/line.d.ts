// What the dashboard uses of jsdiff, for the type checker.
export function diffLines(from: string, to: string): Array<{ added?: boolean; removed?: boolean; value: string }>;
