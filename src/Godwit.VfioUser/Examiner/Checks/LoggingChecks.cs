using System.Numerics;
using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>The requests of DMA logging (linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*).</summary>
internal static class LoggingChecks
{
    public const ulong Page = WireLimits.PageSize;
    private const ulong Base = 0x4000_0000;

    /// <summary>Up to here a least span is looked for: 57 bits, the widest aperture of an IOMMU.</summary>
    private const ulong LargestTried = 1UL << 57;

    /// <summary>Goes with a log started: whoever comes next finds none, and may start one. Nothing to see without logging.</summary>
    public static void LeaveBehind(Examination e)
    {
        if (e.Try(Command.DeviceFeature, Examination.Feature(Feature.DmaLoggingStart, FeatureFlags.Set | FeatureFlags.Probe, 8)) != Errno.None)
            return;
        StartAround(e, Page, Base, Page);
        e.Disconnect();
        e.Refused(Command.DeviceFeature, "a report of the log of a client that has gone", ReportBody(Base, Page, Page));
        StartAround(e, Page, Base, Page);
        Stop(e);
    }

    public static IReadOnlyList<Check> All { get; } =
    [
        new("logging.start-stop", "logging starts and stops, and starts anew", static e =>
        {
            e.NeedsLogging();
            for (int i = 0; i < 3; i++)
            {
                StartAround(e, Page, Base, Page);
                Stop(e);
            }
        }),
        new("logging.start-twice", "a second start with another page size is refused, and the first goes on", static e =>
        {
            e.NeedsLogging();
            StartAround(e, Page, Base, 16 * Page);
            Examination.Require(TryStart(e, 4 * Page, out _, (Base, 4 * Page)) != Errno.None, "it is not refused");
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
            StartAround(e, Page, Base, 4 * Page);
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
            StartAround(e, Page, Base, 16 * Page);
            Stop(e);
            e.Refused(Command.DeviceFeature, "a report after the stop", ReportBody(Base, 16 * Page, Page));
        }),
        new("logging.report", "a report has the size its range needs, and one that wraps, is empty or has no room is refused", static e =>
        {
            e.NeedsLogging();
            DmaChecks.Map(e, Base, 512 * Page, null);
            StartAround(e, Page, Base, 512 * Page);
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
            StartExactly(e, Base, 16 * Page);
            using ExaminerReply reply = e.Peer.Call(Command.DeviceFeature, ReportBody(Base + 32 * Page, 16 * Page, Page));
            Examination.Require(reply.Error != Errno.None || reply.Body.AsSpan(Math.Min(reply.Body.Length, 32)).IndexOfAnyExcept((byte)0) < 0, "pages outside of the logged ranges are marked");
        }),
    ];

    /// <summary>
    /// Starts to log everything, or what the device takes around some addresses when it has limits; returns the size of the log's pages, which may be
    /// larger than what is asked for. A device that offers a log and takes not even a page is wrong.
    /// </summary>
    public static ulong StartAround(Examination e, ulong pageSize, ulong start, ulong length)
    {
        Errno error = TryStart(e, pageSize, out ulong granted);
        // The log may be smaller than all addresses, and may want more than is needed here.
        for (ulong size = BitOperations.RoundUpToPowerOf2(length); IsLimit(error) && size <= LargestTried; size *= 2)
            error = TryStart(e, pageSize, out granted, (start & ~(size - 1), size));
        if (IsLimit(error) && TryStart(e, pageSize, out _, (start, pageSize)) == Errno.None)
        {
            Stop(e);
            throw Examination.Absent($"its log does not take 0x{length:x} bytes at once");
        }

        Examination.Require(error == Errno.None, $"DMA_LOGGING_START is refused with {error}, whatever is asked for");
        return granted;
    }

    /// <summary>Starts to log a range and no more; ends the check when the device has a limit that it does not meet, or logs by larger pages.</summary>
    public static void StartExactly(Examination e, ulong start, ulong length)
    {
        Errno error = TryStart(e, Page, out ulong granted, (start, length));
        if (IsLimit(error))
        {
            StartAround(e, Page, start, length); // it takes something
            Stop(e);
            throw Examination.Absent($"its log does not take 0x{length:x} bytes alone ({error})");
        }

        Examination.Require(error == Errno.None, $"DMA_LOGGING_START is refused with {error}");
        if (granted == Page)
            return;
        Stop(e);
        throw Examination.Absent($"its log has pages of {granted} bytes");
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

    /// <summary>How drivers say that a request is within the interface and beyond the device (mlx5, pds; linux/vfio.h leaves the limits to them).</summary>
    private static bool IsLimit(Errno error) => error is Errno.ENOTSUP or Errno.E2BIG or Errno.ENOMEM or Errno.ENOSPC;

    private static Errno TryStart(Examination e, ulong pageSize, out ulong granted, params (ulong Start, ulong Length)[] ranges)
    {
        byte[] spans = [.. ranges.SelectMany(range => ExaminerPeer.Bytes(new SpanBody { Start = range.Start, Length = range.Length }))];
        byte[] body = ExaminerPeer.Bytes(new LogControlBody { PageSize = pageSize, RangeCount = (uint)ranges.Length }, spans);
        using ExaminerReply reply = e.Peer.Call(Command.DeviceFeature, Examination.Feature(Feature.DmaLoggingStart, FeatureFlags.Set, (uint)(8 + body.Length), body));
        // A server may answer with the request, in which the page size is what it chose, or with less.
        granted = Wire.TryTake(reply.Body.AsSpan(Math.Min(Unsafe.SizeOf<FeatureBody>(), reply.Body.Length)), out LogControlBody control, out _) ? control.PageSize : pageSize;
        Examination.Require(reply.Error != Errno.None || BitOperations.IsPow2(granted), $"DMA_LOGGING_START is answered with a page size of {granted}");
        return reply.Error;
    }

    private static void Refused(Examination e, string what, ulong pageSize, params (ulong Start, ulong Length)[] ranges)
    {
        if (TryStart(e, pageSize, out _, ranges) != Errno.None)
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
