//! Text on a picture, with every letter at its exact place: small labels need that.

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont as _, point};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Where a text lies, along its line, as seen from the point it is drawn at.
#[derive(Clone, Copy)]
pub enum Along {
    /// It starts there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// How a text looks. Every text is centred on its point across its line.
#[derive(Clone, Copy)]
pub struct Style {
    /// Size of the letter m, in pixels.
    pub size: f32,
    /// Its colour.
    pub colour: RGBColor,
    /// Thick strokes.
    pub bold: bool,
    /// Where it lies.
    pub along: Along,
    /// Read from the bottom to the top.
    pub upward: bool,
}

impl Style {
    /// Level text of thin strokes that starts at its point.
    pub fn new(size: f32, colour: RGBColor) -> Style {
        Style { size, colour, bold: false, along: Along::Start, upward: false }
    }

    /// Sets where the text lies.
    pub fn along(self, along: Along) -> Style {
        Style { along, ..self }
    }

    /// Sets thick strokes.
    pub fn bold(self) -> Style {
        Style { bold: true, ..self }
    }

    /// Turns the text to be read upward.
    pub fn upward(self) -> Style {
        Style { upward: true, ..self }
    }

    fn font(&self) -> anyhow::Result<(FontRef<'static>, PxScale)> {
        let bytes = if self.bold { dejavu::sans::bold() } else { dejavu::sans::regular() };
        let font = FontRef::try_from_slice(bytes)?;
        let size_of_m = font.units_per_em().unwrap_or(1000.0);
        let scale = PxScale::from(self.size * font.height_unscaled() / size_of_m);
        Ok((font, scale))
    }

    /// The glyphs of a line that starts at (0, 0), and its length.
    fn line(&self, text: &str) -> anyhow::Result<(FontRef<'static>, Vec<Glyph>, f32)> {
        let (font, scale) = self.font()?;
        let scaled = font.as_scaled(scale);
        let (mut glyphs, mut end): (Vec<Glyph>, f32) = (Vec::new(), 0.0);
        for letter in text.chars() {
            let id = scaled.glyph_id(letter);
            if let Some(before) = glyphs.last() {
                end += scaled.kern(before.id, id);
            }
            glyphs.push(id.with_scale_and_position(scale, point(end, 0.0)));
            end += scaled.h_advance(id);
        }
        Ok((font, glyphs, end))
    }
}

/// The length of a text in pixels, rounded up.
///
/// # Errors
/// When the built-in font is damaged.
pub fn length(text: &str, style: Style) -> anyhow::Result<i32> {
    Ok(style.line(text)?.2.ceil() as i32)
}

/// Draws a text at a point.
///
/// # Errors
/// When the built-in font is damaged.
pub fn write(
    area: &DrawingArea<BitMapBackend<'_>, Shift>,
    text: &str,
    style: Style,
    at: (i32, i32),
) -> anyhow::Result<()> {
    let (font, mut glyphs, length) = style.line(text)?;
    let start = match style.along {
        Along::Start => 0.0,
        Along::Middle => -length / 2.0,
        Along::End => -length,
    };
    // Half the height of a capital letter above the baseline is the middle for the eye.
    let baseline = 0.36 * style.size;
    for glyph in &mut glyphs {
        glyph.position.x += start;
        glyph.position.y += baseline;
    }
    for glyph in glyphs {
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let bounds = outline.px_bounds();
        let mut pixels = Vec::new();
        outline.draw(|x, y, coverage| {
            pixels.push((bounds.min.x as i32 + x as i32, bounds.min.y as i32 + y as i32, coverage))
        });
        for (x, y, coverage) in pixels {
            let place = if style.upward { (at.0 + y, at.1 - x) } else { (at.0 + x, at.1 + y) };
            area.draw_pixel(place, &style.colour.mix(f64::from(coverage.clamp(0.0, 1.0))))?;
        }
    }
    Ok(())
}
