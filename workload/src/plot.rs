//! Bar charts of rows as SVG, on a logarithmic scale.

use std::fmt::Write;

use crate::number::number;
use crate::rows::Better;
use crate::table::Table;

const LABELS: f64 = 190.0;
const BARS: f64 = 430.0;
const VALUES: f64 = 120.0;
const BAR: f64 = 20.0;
const HEAD: f64 = 44.0;

impl Table {
    /// Returns the key and the chart of each row that can be drawn. A chart is the text of an SVG
    /// file with a logarithmic axis. Such an axis has no 0, so only medians above 0 have bars.
    /// Floors have no bars. A row is left out if no cell has a bar. A row is also left out if a
    /// cell with a bar contains a value of 0 or less from one of its rounds.
    pub fn plots(&self) -> Vec<(&'static str, String)> {
        let rows = (0..self.rows.len()).filter_map(|row| {
            let mut text = String::new();
            // Writing to a string does not fail.
            self.plot(row, &mut text).ok()?;
            (!text.is_empty()).then_some((self.rows[row].key, text))
        });
        rows.collect()
    }

    fn plot(&self, index: usize, text: &mut String) -> std::fmt::Result {
        let row = &self.rows[index];
        let bars: Vec<(usize, f64, (f64, f64))> = self
            .shown()
            .filter_map(|column| {
                let cell = &self.cells[index][column];
                let median = cell.median().filter(|median| *median > 0.0)?;
                Some((column, median, cell.range()?))
            })
            .collect();
        let least = bars
            .iter()
            .map(|(.., (least, _))| *least)
            .fold(f64::MAX, f64::min);
        let most = bars.iter().map(|(.., (_, most))| *most).fold(0.0, f64::max);
        if bars.is_empty() || least <= 0.0 {
            return Ok(());
        }
        // The axis begins at the greatest power of ten that does not exceed the least value.
        let (low, high) = (
            least.log10().floor(),
            most.log10().max(least.log10().floor() + 1.0),
        );
        let position = |value: f64| LABELS + (value.log10() - low) / (high - low) * BARS;
        let (width, height) = (LABELS + BARS + VALUES, HEAD + BAR * bars.len() as f64 + 8.0);
        let better = match row.better {
            Better::Higher => "higher is better",
            Better::Lower => "lower is better",
        };
        let title = escape(&(row.title)(&self.scale));
        writeln!(
            text,
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="16" font-weight="bold">{title}</text>
<text x="8" y="32" fill="#666">{unit}, logarithmic, {better}</text>"##,
            unit = row.unit
        )?;
        for power in low as i32..=high.floor() as i32 {
            let x = position(10f64.powi(power));
            writeln!(
                text,
                r##"<line x1="{x:.1}" x2="{x:.1}" y1="{HEAD}" y2="{height}" stroke="#ddd"/>"##
            )?;
        }
        let best = self.best(index);
        for (bar, (column, median, range)) in bars.iter().enumerate() {
            let y = HEAD + BAR * bar as f64;
            let middle = y + BAR / 2.0;
            let fill = if best.contains(column) {
                "#2a7"
            } else {
                "#79b"
            };
            let (name, value) = (escape(&self.columns[*column].name), number(*median));
            let (bar, from, to) = (
                position(*median) - LABELS,
                position(range.0),
                position(range.1),
            );
            writeln!(
                text,
                r##"<text x="{label}" y="{base:.1}" text-anchor="end">{name}</text>
<rect x="{LABELS}" y="{top:.1}" width="{bar:.1}" height="{thick}" fill="{fill}"/>
<line x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="#000"/>
<text x="{right:.1}" y="{base:.1}">{value}</text>"##,
                label = LABELS - 6.0,
                base = middle + 4.0,
                top = y + 3.0,
                thick = BAR - 6.0,
                right = to.max(LABELS) + 6.0,
            )?;
        }
        writeln!(text, "</svg>")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
