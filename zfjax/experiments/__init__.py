"""One file a figure or table of the paper: functions of nets and arrays that return NamedTuples of arrays."""
