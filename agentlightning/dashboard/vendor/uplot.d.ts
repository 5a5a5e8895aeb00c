// Type declarations for the parts of uPlot that the dashboard uses.
declare const uPlot: new (options: any, data: any, place: HTMLElement) => any;
export default uPlot;
