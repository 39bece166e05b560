namespace Godwit.Cli;

/// <summary>How the report looks; light or dark as the reader's system is, and legible without colour by the legend and the tables.</summary>
internal static class ReportStyle
{
    /// <summary>The style sheet.</summary>
    public const string Css =
        """
        :root { color-scheme: light dark; --ink: #1c2024; --soft: #60676e; --paper: #fcfcfb; --rule: #dfe2e5; --bad: #b3261e; --good: #1a7f4b;
          --a: #2f6fb3; --b: #c2571a; --c: #2c8c74; --d: #8a5fb0; --e: #b3892b; --f: #5c6f82; --g: #a8476a; --h: #7d8f29; --i: #2b8ca3; --j: #8c5a3c; }
        @media (prefers-color-scheme: dark) { :root { --ink: #e8eaec; --soft: #9aa2aa; --paper: #16181b; --rule: #33383d; --bad: #f2736b; --good: #57c78a;
          --a: #6ea8e6; --b: #ec8b4f; --c: #57c2a5; --d: #bb95de; --e: #dcb656; --f: #94a8bc; --g: #dd7d9f; --h: #b1c35b; --i: #62c4dc; --j: #c99a7a; } }
        body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 960px; margin: 32px auto; padding: 0 20px; }
        h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 34px 0 6px; } p { margin: 4px 0 10px; } .soft { color: var(--soft); }
        .bad { color: var(--bad); } .good { color: var(--good); }
        .facts { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 20px 0 0; padding: 0; list-style: none; }
        .facts b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; } .facts span { color: var(--soft); font-size: 13px; }
        svg { width: 100%; height: auto; display: block; } .grid { stroke: var(--rule); } .tick { fill: var(--soft); font-size: 12px; }
        .limit { stroke: var(--bad); stroke-dasharray: 5 4; } .line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
        .part { fill: currentColor; } .key { background: currentColor; }
        .a { color: var(--a); } .b { color: var(--b); } .c { color: var(--c); } .d { color: var(--d); } .e { color: var(--e); } .f { color: var(--f); } .g { color: var(--g); } .h { color: var(--h); }
        .i { color: var(--i); } .j { color: var(--j); }
        .legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 2px 0 0 76px; font-size: 13px; }
        .key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
        table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
        th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid var(--rule); } th { color: var(--soft); font-weight: 500; }
        th:first-child, td:first-child { text-align: left; } .wide { overflow-x: auto; } .wide > svg { min-width: 600px; }
        """;
}
