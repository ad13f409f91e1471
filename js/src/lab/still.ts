import { fromBase64, type Header } from '../shared/payload';
import { VIEWS } from '../widgets/views';

/** What nbsight/widgets/base.py leaves in a notebook. */
export interface Still {
  view: string;
  header?: Header;
  data?: string;
  state?: unknown;
  selection?: unknown;
}

/**
 * A copy of a view: the view itself on the data that the notebook kept, so that it can still be read,
 * hovered and walked through; else its picture.
 */
export function drawStill(still: Still, png: string | undefined): HTMLElement {
  const figure = document.createElement('figure');
  figure.className = 'jp-nbsight-still';
  const caption = document.createElement('figcaption');
  caption.textContent = 'Saved copy: no kernel holds this view. Run the cell to ask the model again.';
  figure.append(caption);
  try {
    const make = VIEWS[still.view];
    if (make && still.header && still.data !== undefined) {
      make(figure, still.header, fromBase64(still.data), still.state ?? {}, still.selection ?? null);
      return figure;
    }
  } catch (error) {
    console.warn('nbsight: the saved copy cannot be drawn, its picture is shown', error);
    figure.replaceChildren(caption);
  }
  if (png) {
    const image = document.createElement('img');
    image.src = `data:image/png;base64,${png}`;
    image.alt = 'Picture of the view';
    figure.append(image);
  }
  return figure;
}
