// Type declarations for the parts of jsdiff that the dashboard uses.
export function diffLines(from: string, to: string): Array<{ added?: boolean; removed?: boolean; value: string }>;
