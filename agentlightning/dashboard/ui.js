// The UI library: Preact, with htm for markup and signals for state.

import { Fragment, h, render } from "./vendor/preact.js";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { batch, computed, effect, signal } from "./vendor/signals.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);

export { Fragment, batch, computed, effect, render, signal };
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };
