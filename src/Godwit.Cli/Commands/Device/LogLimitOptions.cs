using System.CommandLine;
using System.Numerics;
using Godwit.VfioUser;

namespace Godwit.Cli;

/// <summary>Options that give a served device the limits of a log of DMA that hardware has, so that machines can be tried against them.</summary>
internal sealed class LogLimitOptions
{
    /// <summary>Spans up to 2^63 bytes: what a range may be long (linux/vfio.h, vfio_device_feature_dma_logging_range).</summary>
    private const ulong LargestSpan = 1UL << 63;
    private const ulong SmallestPage = 4096;
    private const ulong LargestPage = 1UL << 30;

    private readonly DefaultedOption<long> _ranges = RangesOption("--log-ranges");
    private readonly DefaultedOption<ulong> _most = SpanMaxOption("--log-span-max");
    private readonly DefaultedOption<ulong> _least = CommonOptions.Size(
        "--log-span-min", "Least that its log of DMA takes at once.", 0, 0, LargestSpan, SmallestPage);
    private readonly DefaultedOption<ulong> _page = CommonOptions.Size(
        "--log-page", "Page size of its log of DMA: a power of two.", SmallestPage, SmallestPage, LargestPage, SmallestPage);

    /// <summary>Ranges of one start.</summary>
    public static DefaultedOption<long> RangesOption(string name) => CommonOptions.Number(name, "Ranges that the device's log of DMA takes at once.", 256, 1, 256);

    /// <summary>Sum of their lengths.</summary>
    public static DefaultedOption<ulong> SpanMaxOption(string name) => CommonOptions.Size(
        name, "Most that the device's log of DMA takes at once, all ranges together; 0 for no limit.", 0, 0, LargestSpan, SmallestPage);

    /// <summary>Adds them.</summary>
    public void AddTo(Command command)
    {
        command.Add(_ranges);
        command.Add(_most);
        command.Add(_least);
        command.Add(_page);
    }

    /// <summary>What was given.</summary>
    public DmaLogLimits Read(ParseResult parsed)
    {
        ulong most = parsed.Value(_most), least = parsed.Value(_least), page = parsed.Value(_page);
        if (most != 0 && least > most)
        {
            throw new CliException($"--log-span-min {ByteSize.Exact(least)} is more than --log-span-max {ByteSize.Exact(most)}");
        }

        if (!BitOperations.IsPow2(page))
        {
            throw new CliException($"--log-page {ByteSize.Exact(page)} is no power of two");
        }

        return new DmaLogLimits { MaxRanges = (int)parsed.Value(_ranges), MinSpan = least, MaxSpan = most == 0 ? ulong.MaxValue : most, PageSize = page };
    }
}
