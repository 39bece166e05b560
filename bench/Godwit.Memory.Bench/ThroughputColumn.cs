using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;

namespace Godwit.Memory.Bench;

/// <summary>GB/s (10^9 bytes a second) of benchmarks that have a parameter Bytes.</summary>
internal sealed class ThroughputColumn : IColumn
{
    public string Id => nameof(ThroughputColumn);

    public string ColumnName => "GB/s";

    public bool AlwaysShow => true;

    public ColumnCategory Category => ColumnCategory.Custom;

    public int PriorityInCategory => 0;

    public bool IsNumeric => true;

    public UnitType UnitType => UnitType.Dimensionless;

    public string Legend => "Bytes of bitmap (or of memory copied) per second, in 10^9";

    public string GetValue(Summary summary, BenchmarkCase benchmarkCase) => GetValue(summary, benchmarkCase, summary.Style);

    public string GetValue(Summary summary, BenchmarkCase benchmarkCase, SummaryStyle style)
    {
        object? bytes = benchmarkCase.Parameters.Items.FirstOrDefault(item => item.Name == "Bytes")?.Value;
        double? nanoseconds = summary[benchmarkCase]?.ResultStatistics?.Mean;
        return bytes is int count && nanoseconds > 0 ? (count / nanoseconds.Value).ToString("F2") : "-";
    }

    public bool IsAvailable(Summary summary) => true;

    public bool IsDefault(Summary summary, BenchmarkCase benchmarkCase) => false;
}
