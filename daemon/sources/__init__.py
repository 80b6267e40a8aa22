"""Where news comes from. News only ever says *look again*; what is true is read by the pass."""
