using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>The requests of DMA logging (linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*).</summary>
internal static class LoggingChecks
{
    public const ulong Page = WireLimits.PageSize;
    private const ulong Base = 0x4000_0000;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("logging.start-stop", "logging starts and stops, and starts anew", static e =>
        {
            e.NeedsLogging();
            for (int i = 0; i < 3; i++)
            {
                Start(e, Page);
                Stop(e);
            }
        }),
        new("logging.start-twice", "a second start with another page size is refused, and the first goes on", static e =>
        {
            e.NeedsLogging();
            Start(e, Page);
            Examination.Require(TryStart(e, 4 * Page) != Errno.None, "it is not refused");
            Report(e, Base, 16 * Page, Page);
            Stop(e);
        }),
        new("logging.overlap", "ranges that overlap, wrap, are empty or are no whole pages are refused", static e =>
        {
            e.NeedsLogging();
            Refused(e, "ranges that overlap", Page, (Base, 4 * Page), (Base + 2 * Page, 4 * Page));
            Refused(e, "a range that wraps", Page, (ulong.MaxValue - Page + 1, 2 * Page));
            Refused(e, "an empty range", Page, (Base, 0));
            Refused(e, "half a page", Page, (Base, Page / 2));
            Start(e, Page, (Base, 4 * Page));
            Stop(e);
        }),
        new("logging.too-many", "more ranges than come, or than anybody can log, are refused", static e =>
        {
            e.NeedsLogging();
            byte[] claim = ExaminerPeer.Bytes(new LogControlBody { PageSize = Page, RangeCount = uint.MaxValue });
            e.Refused(Command.DeviceFeature, "4294967295 ranges that do not come", Examination.Feature(Feature.DmaLoggingStart, FeatureFlags.Set, 24, claim));
            (ulong, ulong)[] many = [.. Enumerable.Range(0, 4096).Select(i => (Base + (ulong)i * 2 * Page, Page))];
            Refused(e, "4096 ranges", Page, many);
        }),
        new("logging.page-size", "a page size that is no power of two is refused", static e =>
        {
            e.NeedsLogging();
            Refused(e, "page size 0", 0);
            Refused(e, "page size 4097", Page + 1);
            Refused(e, "page size 12288", 3 * Page);
        }),
        new("logging.stopped", "without a log there is no report", static e =>
        {
            e.NeedsLogging();
            e.Refused(Command.DeviceFeature, "a report before the start", ReportBody(Base, 16 * Page, Page));
            Start(e, Page);
            Stop(e);
            e.Refused(Command.DeviceFeature, "a report after the stop", ReportBody(Base, 16 * Page, Page));
        }),
        new("logging.report", "a report has the size its range needs, and one that wraps, is empty or has no room is refused", static e =>
        {
            e.NeedsLogging();
            DmaChecks.Map(e, Base, 512 * Page, null);
            Start(e, Page);
            foreach (ulong pages in (ulong[])[1, 63, 64, 65, 512])
                Report(e, Base, pages * Page, Page);
            e.Refused(Command.DeviceFeature, "a report of nothing", ReportBody(Base, 0, Page));
            e.Refused(Command.DeviceFeature, "a report that wraps", ReportBody(ulong.MaxValue - Page + 1, 2 * Page, Page));
            e.Refused(Command.DeviceFeature, "a report with page size 0", ReportBody(Base, Page, 0));
            e.Refused(Command.DeviceFeature, "a report with page size 12288", ReportBody(Base, 3 * Page, 3 * Page));
            e.Refused(Command.DeviceFeature, "a report without room for its bitmap", ReportBody(Base, 512 * Page, Page, argSize: 40));
            e.Refused(Command.DeviceFeature, "a report whose bitmap has 512 GiB", ReportBody(0, 1UL << 54, Page, argSize: uint.MaxValue));
        }),
        new("logging.outside", "a report of what is not logged is refused or empty", static e =>
        {
            e.NeedsLogging();
            DmaChecks.Map(e, Base, 64 * Page, null);
            Start(e, Page, (Base, 16 * Page));
            using ExaminerReply reply = e.Peer.Call(Command.DeviceFeature, ReportBody(Base + 32 * Page, 16 * Page, Page));
            Examination.Require(reply.Error != Errno.None || reply.Body.AsSpan(Math.Min(reply.Body.Length, 32)).IndexOfAnyExcept((byte)0) < 0, "pages outside of the logged ranges are marked");
        }),
    ];

    /// <summary>Starts to log; everything without ranges.</summary>
    public static void Start(Examination e, ulong pageSize, params (ulong Start, ulong Length)[] ranges)
    {
        Errno error = TryStart(e, pageSize, ranges);
        Examination.Require(error == Errno.None, $"DMA_LOGGING_START is refused with {error}");
    }

    /// <summary>Stops logging.</summary>
    public static void Stop(Examination e) =>
        e.Get(Command.DeviceFeature, "DMA_LOGGING_STOP", Examination.Feature(Feature.DmaLoggingStop, FeatureFlags.Set, 8));

    /// <summary>Reads and clears a part of the log.</summary>
    public static byte[] Report(Examination e, ulong address, ulong length, ulong pageSize)
    {
        byte[] reply = e.Get(Command.DeviceFeature, $"a report of 0x{length:x} bytes at 0x{address:x}", ReportBody(address, length, pageSize));
        int wanted = Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<LogReportBody>() + (int)Wire.BitmapBytes(length, pageSize);
        Examination.Require(reply.Length == wanted, $"a report of {length / pageSize} pages has {reply.Length} bytes instead of {wanted}");
        return reply[32..];
    }

    private static Errno TryStart(Examination e, ulong pageSize, params (ulong Start, ulong Length)[] ranges)
    {
        byte[] spans = [.. ranges.SelectMany(range => ExaminerPeer.Bytes(new SpanBody { Start = range.Start, Length = range.Length }))];
        byte[] body = ExaminerPeer.Bytes(new LogControlBody { PageSize = pageSize, RangeCount = (uint)ranges.Length }, spans);
        return e.Try(Command.DeviceFeature, Examination.Feature(Feature.DmaLoggingStart, FeatureFlags.Set, (uint)(8 + body.Length), body));
    }

    private static void Refused(Examination e, string what, ulong pageSize, params (ulong Start, ulong Length)[] ranges)
    {
        if (TryStart(e, pageSize, ranges) != Errno.None)
            return;
        Stop(e);
        throw Examination.Wrong($"{what}: not refused");
    }

    private static byte[] ReportBody(ulong address, ulong length, ulong pageSize, uint? argSize = null)
    {
        ulong room = pageSize == 0 ? 64 : Math.Min(32 + Wire.BitmapBytes(length, pageSize), WireLimits.MaxTransfer);
        return Examination.Feature(
            Feature.DmaLoggingReport, FeatureFlags.Get, argSize ?? (uint)room, ExaminerPeer.Bytes(new LogReportBody { Address = address, Length = length, PageSize = pageSize }));
    }
}
