//! Attention maps as PNG files.

use std::path::Path;

use minilm::AttentionMaps;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::lettering::{Along, Style, length, write};

/// What a picture says about itself.
pub struct Title<'a> {
    /// The sentence.
    pub sentence: &'a str,
    /// Type and device.
    pub place: &'a str,
}

/// A function that draws maps, the chosen layer and head among them, to a file.
pub type Draw = fn(&AttentionMaps, (usize, usize), &Title<'_>, &Path) -> anyhow::Result<()>;

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT_INK: RGBColor = RGBColor(107, 114, 128);
const FRAME: RGBColor = RGBColor(203, 213, 225);
const MARK: RGBColor = RGBColor(234, 88, 12);

/// Colours of the shares 0, 0.2, 0.4, 0.6, 0.8 and 1: one hue, ever darker, so that it also prints in grey.
const RAMP: [(u8, u8, u8); 6] =
    [(248, 250, 252), (191, 219, 239), (116, 176, 222), (49, 120, 188), (24, 72, 140), (11, 29, 81)];

/// The colour of a share from 0 to 1.
fn colour(share: f32) -> RGBColor {
    let place = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f32;
    let below = (place as usize).min(RAMP.len() - 2);
    let (from, to) = (RAMP[below], RAMP[below + 1]);
    let mix =
        |from: u8, to: u8| (f32::from(from) + (f32::from(to) - f32::from(from)) * (place - below as f32)).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

/// A white canvas.
fn canvas(path: &Path, size: (i32, i32)) -> anyhow::Result<Area<'_>> {
    let area = BitMapBackend::new(path, (size.0 as u32, size.1 as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

/// Title, sentence, and how to read the picture: 120 pixels from the top.
fn heading(area: &Area, title: &str, about: &Title, how: &str) -> anyhow::Result<()> {
    write(area, title, Style::new(24.0, INK).bold(), (32, 40))?;
    let style = Style::new(19.0, INK);
    let mut sentence = format!("“{}”", about.sentence);
    // A long sentence loses its end, word by word.
    let mut kept = about.sentence;
    while length(&sentence, style)? > area.dim_in_pixel().0 as i32 - 64
        && let Some((shorter, _)) = kept.rsplit_once(' ')
    {
        kept = shorter;
        sentence = format!("“{kept} …”");
    }
    write(area, &sentence, style, (32, 72))?;
    write(area, how, Style::new(14.0, FAINT_INK), (32, 100))?;
    let source = format!("p = exp(q · k / √head_dim − lse), computed by warpfold in {}", about.place);
    write(area, &source, Style::new(14.0, FAINT_INK), (32, 121))
}

/// A map as squares of `cell` pixels, with a hair of white between large ones.
fn squares(area: &Area, at: (i32, i32), cell: i32, map: &[f32], len: usize) -> anyhow::Result<()> {
    for (index, share) in map.iter().enumerate() {
        let (x, y) = (at.0 + (index % len) as i32 * cell, at.1 + (index / len) as i32 * cell);
        // A filled rectangle ends one pixel before its second corner.
        let size = if cell >= 8 { cell - 1 } else { cell };
        area.draw(&Rectangle::new([(x, y), (x + size, y + size)], colour(*share).filled()))?;
    }
    frame(area, at, len as i32 * cell, &FRAME, 1)
}

/// A frame of `width` pixels around a square.
fn frame(area: &Area, at: (i32, i32), size: i32, colour: &RGBColor, width: i32) -> anyhow::Result<()> {
    for ring in 1..=width {
        area.draw(&Rectangle::new(
            [(at.0 - ring, at.1 - ring), (at.0 + size + ring - 1, at.1 + size + ring - 1)],
            colour,
        ))?;
    }
    Ok(())
}

/// The scale from 0 to 100 %.
fn scale(area: &Area, at: (i32, i32), height: i32) -> anyhow::Result<()> {
    for y in 0..height {
        let share = 1.0 - y as f32 / (height - 1) as f32;
        area.draw(&PathElement::new([(at.0, at.1 + y), (at.0 + 17, at.1 + y)], colour(share)))?;
    }
    for quarter in 0..=4 {
        let y = at.1 + (height - 1) * (4 - quarter) / 4;
        area.draw(&PathElement::new([(at.0 + 18, y), (at.0 + 23, y)], FAINT_INK))?;
        write(area, &format!("{} %", quarter * 25), Style::new(14.0, INK), (at.0 + 29, y))?;
    }
    Ok(())
}

/// Every head: a row of maps a layer. The chosen head has a frame.
///
/// # Errors
/// When the file cannot be written.
pub fn all_heads(maps: &AttentionMaps, chosen: (usize, usize), about: &Title, path: &Path) -> anyhow::Result<()> {
    let tokens = &maps.tokens.texts;
    let len = tokens.len() as i32;
    // A map stays about as large for long sentences, whose tokens then have no room for their names.
    let cell = (150 / len).clamp(2, 17);
    let labelled = cell >= 11;
    let (map, gap) = (cell * len, 16);
    let name = Style::new((cell - 4).min(13) as f32, FAINT_INK);
    let names = if labelled { longest(tokens, name)? + 8 } else { 0 };
    let (left, top) = (70 + names, 186 + names);
    let (layers, heads) = (maps.layers as i32, maps.heads as i32);
    let (width, height) = (left + heads * (map + gap) + 96, top + layers * (map + gap) + 20);
    let area = canvas(path, (width, height))?;
    heading(
        &area,
        &format!("Every attention head of the model: {layers} layers of {heads}"),
        about,
        "Row: the token that looks. Column: the token it looks at. [CLS] and [SEP] removed, rows rescaled to 100 %. \
         Orange: the head shown enlarged.",
    )?;
    for head in 0..heads {
        let x = left + head * (map + gap);
        let above = Style::new(15.0, INK).along(Along::Middle);
        write(&area, &format!("head {}", head + 1), above, (x + map / 2, top - names - 20))?;
        for (index, token) in tokens.iter().enumerate().filter(|_| labelled) {
            write(&area, token, name.upward(), (x + index as i32 * cell + cell / 2, top - 7))?;
        }
    }
    for layer in 0..layers {
        let y = top + layer * (map + gap);
        let beside = Style::new(15.0, INK).along(Along::Middle).upward();
        write(&area, &format!("layer {}", layer + 1), beside, (42, y + map / 2))?;
        for (index, token) in tokens.iter().enumerate().filter(|_| labelled) {
            write(&area, token, name.along(Along::End), (left - 7, y + index as i32 * cell + cell / 2))?;
        }
        for head in 0..heads {
            let at = (left + head * (map + gap), y);
            squares(&area, at, cell, maps.map(layer as usize, head as usize), tokens.len())?;
            if (layer as usize, head as usize) == chosen {
                frame(&area, (at.0 - 2, at.1 - 2), map + 4, &MARK, 3)?;
            }
        }
    }
    scale(&area, (left + heads * (map + gap) + 14, top), layers * (map + gap) - gap)?;
    Ok(area.present()?)
}

/// One head, with its tokens and shares.
///
/// # Errors
/// When the file cannot be written.
pub fn one_head(maps: &AttentionMaps, chosen: (usize, usize), about: &Title, path: &Path) -> anyhow::Result<()> {
    let tokens = &maps.tokens.texts;
    let len = tokens.len() as i32;
    let cell = (810 / len).clamp(3, 90);
    let map = cell * len;
    let name = Style::new((cell - 4).min(17) as f32, INK);
    // Names need a row of their own height; they stand upright above a column that is wide enough for them.
    let labelled = cell >= 11;
    let names = if labelled { longest(tokens, name)? } else { 0 };
    let turned = names > cell - 6;
    let (left, top) = (44 + names.max(60), 160 + if turned { names + 10 } else { 26 });
    let (width, height) = ((left + map + 110).max(860), top + map + 32);
    let area = canvas(path, (width, height))?;
    let (layer, head) = chosen;
    heading(
        &area,
        &format!("Layer {}, head {}", layer + 1, head + 1),
        about,
        "Row: the token that looks. Column: the token it looks at. [CLS] and [SEP] removed, rows rescaled to 100 %.",
    )?;
    let values = maps.map(layer, head);
    squares(&area, (left, top), cell, values, tokens.len())?;
    for (index, token) in tokens.iter().enumerate().filter(|_| labelled) {
        let middle = index as i32 * cell + cell / 2;
        write(&area, token, name.along(Along::End), (left - 12, top + middle))?;
        match turned {
            true => write(&area, token, name.upward(), (left + middle, top - 10))?,
            false => write(&area, token, name.along(Along::Middle), (left + middle, top - 18))?,
        }
    }
    if cell >= 40 {
        for (index, share) in values.iter().enumerate() {
            let at = (left + index as i32 % len * cell + cell / 2, top + index as i32 / len * cell + cell / 2);
            let ink = if *share >= 0.45 { WHITE } else { INK };
            write(&area, &format!("{:.0}", share * 100.0), Style::new(16.0, ink).along(Along::Middle), at)?;
        }
    }
    scale(&area, (left + map + 24, top), map)?;
    Ok(area.present()?)
}

/// The length of the longest token, in pixels.
fn longest(tokens: &[String], style: Style) -> anyhow::Result<i32> {
    tokens.iter().try_fold(0, |longest, token| Ok(length(token, style)?.max(longest)))
}
