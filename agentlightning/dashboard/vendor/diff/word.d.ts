// What the dashboard uses of jsdiff, for the type checker.
export function diffWordsWithSpace(from: string, to: string): Array<{ added?: boolean; removed?: boolean; value: string }>;
