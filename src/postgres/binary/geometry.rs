//! Points, and what is made of points.

use super::Input;
use super::float::double;

pub(super) fn text(out: &mut Vec<u8>, type_oid: u32, input: &mut Input<'_>) -> Option<()> {
    match type_oid {
        600 => point(out, input),
        // lseg
        601 => points(out, input, 2, Some((b'[', b']'))),
        // path: whether it is closed, and its points
        602 => {
            let brackets = if input.u8()? == 0 { (b'[', b']') } else { (b'(', b')') };
            let count = input.i32()?;
            points(out, input, count, Some(brackets))
        }
        // box
        603 => points(out, input, 2, None),
        // polygon
        604 => {
            let count = input.i32()?;
            points(out, input, count, Some((b'(', b')')))
        }
        // line
        628 => numbers(out, input, 3, (b'{', b'}')),
        // circle
        _ => {
            out.push(b'<');
            point(out, input)?;
            out.push(b',');
            double(out, input.f64()?);
            out.push(b'>');
            Some(())
        }
    }
}

fn point(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    numbers(out, input, 2, (b'(', b')'))
}

fn numbers(out: &mut Vec<u8>, input: &mut Input<'_>, count: u32, (open, close): (u8, u8)) -> Option<()> {
    out.push(open);
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        double(out, input.f64()?);
    }
    out.push(close);
    Some(())
}

fn points(out: &mut Vec<u8>, input: &mut Input<'_>, count: i32, brackets: Option<(u8, u8)>) -> Option<()> {
    out.extend(brackets.map(|(open, _)| open));
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        point(out, input)?;
    }
    out.extend(brackets.map(|(_, close)| close));
    Some(())
}
