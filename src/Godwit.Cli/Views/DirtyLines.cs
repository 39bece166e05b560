using System.Globalization;

namespace Godwit.Cli;

/// <summary>How a device's writes are followed, in words.</summary>
internal static class DirtyLines
{
    /// <summary>The source, for people.</summary>
    public static string Source(string source) => source switch
    {
        "device-log" => "the device's log",
        "host-iommu" => "dirty bits of the host's IOMMU",
        "pessimistic" => "all that it can write counts as written",
        _ => "nothing",
    };

    /// <summary>In one line.</summary>
    public static string Summary(DirtyView view) => $"{Source(view.Source)}{(view.Limits is { } limits ? $"; it {limits}" : string.Empty)}";

    /// <summary>In full: a name and a value a line.</summary>
    public static IEnumerable<(string Name, string Value)> Explain(DirtyView view)
    {
        yield return ("source", $"{Source(view.Source)} (dirty-tracking={view.Mode})");
        if (view.Limits is { } limits)
        {
            yield return ("accepts", limits);
        }

        if (view.Source == "none")
        {
            yield break;
        }

        string idle = view.Syncs == 0 ? "no migration yet" : "no migration now; the counters are of those that were";
        yield return ("state", view.Active ? "following a migration" : idle);
        if (view.Active)
        {
            yield return ("coverage", Coverage(view));
        }

        if (view.Active || view.Syncs > 0)
        {
            yield return ("uncovered", $"{view.UncoveredPages} pages ({ByteSize.Rounded(view.UncoveredPages * 4096.0)}) at the last sync, sent in every round");
            if (view.Source == "device-log")
            {
                yield return ("re-arms", $"{view.Rearms}");
            }

            yield return ("syncs", Syncs(view));
            yield return ("found", $"{view.PagesReported} pages");
            yield return ("unmaps", $"{view.Harvests} batches, {view.HarvestsPending} mappings wait for the next round");
        }
    }

    private static string Coverage(DirtyView view)
    {
        string budget = view.BudgetUsed is { } used
            ? string.Create(CultureInfo.InvariantCulture, $", {used:0 %} of the {ByteSize.Rounded(view.MaxSpan)} that it takes")
            : string.Empty;
        return view.CoveredRanges == 0 ? view.Coverage : $"{view.Coverage}: {ByteSize.Rounded(view.CoveredBytes)} in {view.CoveredRanges} {(view.CoveredRanges == 1 ? "range" : "ranges")}{budget}";
    }

    private static string Syncs(DirtyView view)
    {
        double syncs = Math.Max(view.Syncs, 1);
        return string.Create(CultureInfo.InvariantCulture,
            $"{view.Syncs}, each with {view.Reports / syncs:0.#} reports of {view.BitsAsked / syncs:0} bits in all, {Duration.Rounded(view.SyncTime / syncs)}");
    }
}
