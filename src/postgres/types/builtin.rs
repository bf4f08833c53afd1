//! The built-in types, as `src/include/catalog/pg_type.dat` has them; their oids never change.

use super::Form;

/// oid, oid of the array type (0: none), name.
#[rustfmt::skip]
const BUILTIN: &[(u32, u32, &str)] = &[
    (16, 1000, "bool"), (17, 1001, "bytea"), (18, 1002, "char"), (19, 1003, "name"), (20, 1016, "int8"),
    (21, 1005, "int2"), (22, 1006, "int2vector"), (23, 1007, "int4"), (24, 1008, "regproc"), (25, 1009, "text"),
    (26, 1028, "oid"), (27, 1010, "tid"), (28, 1011, "xid"), (29, 1012, "cid"), (30, 1013, "oidvector"),
    (114, 199, "json"), (142, 143, "xml"), (194, 0, "pg_node_tree"), (600, 1017, "point"), (601, 1018, "lseg"),
    (602, 1019, "path"), (603, 1020, "box"), (604, 1027, "polygon"), (628, 629, "line"), (650, 651, "cidr"),
    (700, 1021, "float4"), (701, 1022, "float8"), (718, 719, "circle"), (774, 775, "macaddr8"), (790, 791, "money"),
    (829, 1040, "macaddr"), (869, 1041, "inet"), (1033, 1034, "aclitem"), (1042, 1014, "bpchar"),
    (1043, 1015, "varchar"), (1082, 1182, "date"), (1083, 1183, "time"), (1114, 1115, "timestamp"),
    (1184, 1185, "timestamptz"), (1186, 1187, "interval"), (1266, 1270, "timetz"), (1560, 1561, "bit"),
    (1562, 1563, "varbit"), (1700, 1231, "numeric"), (1790, 2201, "refcursor"), (2202, 2207, "regprocedure"),
    (2203, 2208, "regoper"), (2204, 2209, "regoperator"), (2205, 2210, "regclass"), (2206, 2211, "regtype"),
    (2950, 2951, "uuid"), (2970, 2949, "txid_snapshot"), (3220, 3221, "pg_lsn"), (3361, 0, "pg_ndistinct"),
    (3402, 0, "pg_dependencies"), (3614, 3643, "tsvector"), (3615, 3645, "tsquery"), (3642, 3644, "gtsvector"),
    (3734, 3735, "regconfig"), (3769, 3770, "regdictionary"), (3802, 3807, "jsonb"), (3904, 3905, "int4range"),
    (3906, 3907, "numrange"), (3908, 3909, "tsrange"), (3910, 3911, "tstzrange"), (3912, 3913, "daterange"),
    (3926, 3927, "int8range"), (4072, 4073, "jsonpath"), (4089, 4090, "regnamespace"), (4096, 4097, "regrole"),
    (4191, 4192, "regcollation"), (4451, 6150, "int4multirange"), (4532, 6151, "nummultirange"),
    (4533, 6152, "tsmultirange"), (4534, 6153, "tstzmultirange"), (4535, 6155, "datemultirange"),
    (4536, 6157, "int8multirange"), (4600, 0, "pg_brin_bloom_summary"), (4601, 0, "pg_brin_minmax_multi_summary"),
    (5017, 0, "pg_mcv_list"), (5038, 5039, "pg_snapshot"), (5069, 271, "xid8"),
];

const BOX: u32 = 603;

pub(super) fn form(oid: u32) -> Form {
    match oid {
        22 => Form::Vector { element: 21 },
        30 => Form::Vector { element: 26 },
        3904 => Form::Range { bound: 23 },
        3906 => Form::Range { bound: 1700 },
        3908 => Form::Range { bound: 1114 },
        3910 => Form::Range { bound: 1184 },
        3912 => Form::Range { bound: 1082 },
        3926 => Form::Range { bound: 20 },
        4451 => Form::Multirange { range: 3904 },
        4532 => Form::Multirange { range: 3906 },
        4533 => Form::Multirange { range: 3908 },
        4534 => Form::Multirange { range: 3910 },
        4535 => Form::Multirange { range: 3912 },
        4536 => Form::Multirange { range: 3926 },
        // Scalars that are asked for often need no search.
        0 | 16..=29 | 114 | 700 | 701 | 1042 | 1043 | 1082 | 1083 | 1114 | 1184 | 1700 | 2950 | 3802 => Form::Scalar,
        _ => match BUILTIN.iter().find(|(_, array, _)| *array == oid) {
            Some((element, ..)) => {
                Form::Array { element: *element, delimiter: if *element == BOX { b';' } else { b',' } }
            }
            None => Form::Scalar,
        },
    }
}

/// The name in `pg_type`; not of arrays.
pub(super) fn name(oid: u32) -> Option<&'static str> {
    BUILTIN.iter().find(|(of, ..)| *of == oid).map(|(.., name)| *name)
}

/// By the name in `pg_type`; `_int4` is the array of `int4`.
pub(super) fn by_name(name: &str) -> Option<u32> {
    let array = name.strip_prefix('_');
    let found = BUILTIN.iter().find(|(.., builtin)| *builtin == array.unwrap_or(name))?;
    match array {
        None => Some(found.0),
        Some(_) => Some(found.1).filter(|oid| *oid != 0),
    }
}
