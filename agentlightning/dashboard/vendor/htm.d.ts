// Type declarations for the parts of htm that the dashboard uses.
declare const htm: { bind(h: any): (strings: TemplateStringsArray, ...values: any[]) => any };
export default htm;
