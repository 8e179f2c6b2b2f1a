//! A kernel in Rust: the Mandelbrot set as an array of numbers of steps.

use hybridloop_kernel::{kernel, module, Array, Ctx, Error};

/// For each point of a `rows` × `columns` grid over the set, how many of `steps` steps stay near the origin; u16, row by row.
#[kernel(name = "fractal.mandelbrot")]
fn mandelbrot(
    ctx: &Ctx,
    rows: u32,
    columns: u32,
    #[default(1000)] steps: u16,
) -> Result<Array<'_, u16>, Error> {
    let (rows, columns) = (rows as usize, columns as usize);
    let mut grid = ctx.memory(rows * columns)?;
    for (y, row) in grid.chunks_exact_mut(columns.max(1)).enumerate() {
        // Ends the kernel when the job was cancelled or is late.
        ctx.check()?;
        ctx.progress(y as u64, rows as u64);
        let im = 2.4 * y as f64 / rows as f64 - 1.2;
        for (x, point) in row.iter_mut().enumerate() {
            let re = 3.0 * x as f64 / columns as f64 - 2.1;
            *point = count(re, im, steps);
        }
    }
    // Goes to Python as a two-dimensional array, without a copy.
    Array::new(grid, &[rows, columns])
}

fn count(re: f64, im: f64, steps: u16) -> u16 {
    let (mut x, mut y) = (0.0, 0.0);
    for step in 0..steps {
        (x, y) = (x * x - y * y + re, 2.0 * x * y + im);
        if x * x + y * y > 4.0 {
            return step;
        }
    }
    steps
}

module!("fractal", [mandelbrot]);
