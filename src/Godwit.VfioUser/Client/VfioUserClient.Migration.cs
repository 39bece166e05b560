using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE.</content>
public sealed partial class VfioUserClient
{
    /// <summary>
    /// Largest bitmap asked for at once: 4 GiB of 4 KiB pages. Below every <see cref="MaxTransfer"/> in use, large enough that the
    /// round trip does not count.
    /// </summary>
    private const int MaxBitmapBytes = 128 * 1024;

    /// <summary>DEVICE_FEATURE MIGRATION; None when the device does not know it.</summary>
    public MigrationSupport GetMigrationSupport()
    {
        ulong flags = 0;
        return TryGetFeature(Feature.Migration, "DEVICE_FEATURE MIGRATION", ref flags) ? (MigrationSupport)flags : MigrationSupport.None;
    }

    /// <summary>Whether DMA_LOGGING_START, STOP and REPORT are all offered (probe).</summary>
    public bool SupportsDmaLogging() =>
        Probe(Feature.DmaLoggingStart, FeatureFlags.Set)
        && Probe(Feature.DmaLoggingStop, FeatureFlags.Set)
        && Probe(Feature.DmaLoggingReport, FeatureFlags.Get);

    /// <summary>DEVICE_FEATURE MIG_DEVICE_STATE get.</summary>
    public DeviceMigrationState GetMigrationState()
    {
        MigrationStateBody state = default;
        GetFeature(Feature.MigrationDeviceState, "DEVICE_FEATURE MIG_DEVICE_STATE", ref state);
        if (state.State > (uint)DeviceMigrationState.PreCopyP2P)
            _connection.Violated($"the device says its migration state is {state.State}");
        return (DeviceMigrationState)state.State;
    }

    /// <summary>DEVICE_FEATURE MIG_DEVICE_STATE set; returns when the transition is complete.</summary>
    public void SetMigrationState(DeviceMigrationState state)
    {
        var body = new MigrationStateBody { State = (uint)state, DataFd = -1 };
        int size = Unsafe.SizeOf<MigrationStateBody>();
        SetFeature(Feature.MigrationDeviceState, $"DEVICE_FEATURE MIG_DEVICE_STATE {state}", Bytes(in body), stackalloc byte[size]);
    }

    /// <summary>MIG_DATA_READ: bytes read; fewer than asked means no more for now.</summary>
    public int ReadMigrationData(Span<byte> destination)
    {
        int done = 0;
        while (done < destination.Length)
        {
            Span<byte> piece = destination.Slice(done, Math.Min(destination.Length - done, MaxTransfer));
            var request = new MigrationDataBody { ArgSize = (uint)(Unsafe.SizeOf<MigrationDataBody>() + piece.Length), Size = (uint)piece.Length };
            MigrationDataBody reply = default;
            int length = _connection.Call(
                Command.MigrationDataRead, "MIG_DATA_READ", Bytes(in request), [], [], MemoryMarshal.AsBytes(new Span<MigrationDataBody>(ref reply)), piece);
            // Some devices pad the message to what was asked for: the size field counts.
            if (length < Unsafe.SizeOf<MigrationDataBody>() || reply.Size > length - Unsafe.SizeOf<MigrationDataBody>())
                _connection.Violated($"MIG_DATA_READ of {piece.Length} bytes was answered with {length} bytes that say {reply.Size}");
            done += (int)reply.Size;
            if (reply.Size < piece.Length)
                break;
        }
        return done;
    }

    /// <summary>MIG_DATA_WRITE.</summary>
    /// <exception cref="VfioUserRemoteException">The device refused; data before the refused piece has been taken.</exception>
    public void WriteMigrationData(ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            ReadOnlySpan<byte> piece = data[..Math.Min(data.Length, _sendChunk)];
            var request = new MigrationDataBody { ArgSize = (uint)(Unsafe.SizeOf<MigrationDataBody>() + piece.Length), Size = (uint)piece.Length };
            _connection.Call(Command.MigrationDataWrite, "MIG_DATA_WRITE", Bytes(in request), piece, [], [], []);
            data = data[piece.Length..];
        }
    }

    /// <summary>MIG_DATA_SIZE (feature 9), or null when not offered: bytes STOP_COPY would transfer now.</summary>
    public ulong? GetStopCopySize()
    {
        ulong size = 0;
        return TryGetFeature(Feature.MigrationDataSize, "DEVICE_FEATURE MIG_DATA_SIZE", ref size) ? size : null;
    }

    /// <summary>DMA_LOGGING_START; returns the page size the device chose.</summary>
    /// <param name="pageSize">Wanted page size in bytes, a power of two.</param>
    /// <param name="ranges">What to log, at most 256 and fewer where the device says so; none means everything.</param>
    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<DmaRange> ranges)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(ranges.Length, WireLimits.MaxLogRanges);
        int size = Unsafe.SizeOf<LogControlBody>() + ranges.Length * Unsafe.SizeOf<SpanBody>();
        byte[] body = ArrayPool<byte>.Shared.Rent(2 * size);
        try
        {
            int at = Wire.Put(body, new LogControlBody { PageSize = pageSize, RangeCount = (uint)ranges.Length });
            foreach (DmaRange range in ranges)
                at += Wire.Put(body.AsSpan(at), new SpanBody { Start = range.Address.Value, Length = range.Length });
            Span<byte> reply = body.AsSpan(size, size);
            int length = SetFeature(Feature.DmaLoggingStart, "DEVICE_FEATURE DMA_LOGGING_START", body.AsSpan(0, size), reply);
            if (!Wire.TryTake(reply[..length], out LogControlBody answer, out _))
                return pageSize; // a header-only success leaves the page size as asked
            if (!ulong.IsPow2(answer.PageSize))
                _connection.Violated($"the device logs DMA in pages of {answer.PageSize} bytes");
            return answer.PageSize;
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(body);
        }
    }

    /// <summary>DMA_LOGGING_STOP.</summary>
    public void StopDmaLogging() => SetFeature(Feature.DmaLoggingStop, "DEVICE_FEATURE DMA_LOGGING_STOP", [], []);

    /// <summary>
    /// DMA_LOGGING_REPORT: ORs into <paramref name="bitmap"/> (bit 0 = first page of the range) and clears in the device. Large ranges
    /// are asked for in pieces; when one fails, the bits of those before it are in <paramref name="bitmap"/>.
    /// </summary>
    /// <param name="range">In whole pages of <paramref name="pageSize"/>.</param>
    /// <param name="pageSize">Bytes for each bit, a power of two.</param>
    /// <param name="bitmap">At least one bit for each page.</param>
    public void ReportDmaLog(DmaRange range, ulong pageSize, Span<ulong> bitmap)
    {
        if (!ulong.IsPow2(pageSize))
            throw new ArgumentOutOfRangeException(nameof(pageSize), pageSize, "A power of two");
        if (range.Length == 0 || ((range.Address.Value | range.Length) & (pageSize - 1)) != 0 || range.Length - 1 > ulong.MaxValue - range.Address.Value)
            throw new ArgumentOutOfRangeException(nameof(range), range, $"Not empty, in pages of {pageSize} bytes, inside 64 bits");
        ulong pages = range.Length / pageSize;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pages, (ulong)bitmap.Length * 64, nameof(range));

        int wordsAtOnce = Math.Min(MaxBitmapBytes, (MaxTransfer - Unsafe.SizeOf<LogReportBody>()) & ~7) / sizeof(ulong);
        ulong[] words = ArrayPool<ulong>.Shared.Rent((int)Math.Min((ulong)wordsAtOnce, (pages + 63) / 64));
        try
        {
            ulong address = range.Address.Value;
            while (pages != 0)
            {
                ulong now = Math.Min(pages, (ulong)wordsAtOnce * 64);
                int wordCount = (int)((now + 63) / 64);
                Span<ulong> piece = words.AsSpan(0, wordCount);
                ReportPiece(new LogReportBody { Address = address, Length = now * pageSize, PageSize = pageSize }, piece);
                if (now % 64 != 0)
                    piece[^1] &= (1UL << (int)(now % 64)) - 1; // what lies behind the range is not the device's to say
                for (int i = 0; i < wordCount; i++)
                    bitmap[i] |= piece[i];
                bitmap = bitmap[wordCount..];
                address += now * pageSize;
                pages -= now;
            }
        }
        finally
        {
            ArrayPool<ulong>.Shared.Return(words);
        }
    }

    private void ReportPiece(LogReportBody report, Span<ulong> words)
    {
        Span<byte> bitmap = MemoryMarshal.AsBytes(words);
        Span<byte> head = stackalloc byte[Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<LogReportBody>()];
        Wire.Put(head, new FeatureBody { ArgSize = (uint)(head.Length + bitmap.Length), Flags = (FeatureFlags)Feature.DmaLoggingReport | FeatureFlags.Get });
        Wire.Put(head[Unsafe.SizeOf<FeatureBody>()..], report);
        int expected = head.Length + bitmap.Length;
        int length = _connection.Call(Command.DeviceFeature, "DEVICE_FEATURE DMA_LOGGING_REPORT", head, [], [], head, bitmap);
        if (length != expected)
            _connection.Violated($"DMA_LOGGING_REPORT was answered with {length} bytes instead of {expected}");
    }

    private bool Probe(Feature feature, FeatureFlags method)
    {
        var request = new FeatureBody { ArgSize = (uint)Unsafe.SizeOf<FeatureBody>(), Flags = (FeatureFlags)feature | method | FeatureFlags.Probe };
        FeatureBody reply = default;
        try
        {
            _connection.Call(Command.DeviceFeature, "DEVICE_FEATURE probe", Bytes(in request), [], [], MemoryMarshal.AsBytes(new Span<FeatureBody>(ref reply)), []);
            return true;
        }
        catch (VfioUserRemoteException e) when (IsUnknown(e.Errno))
        {
            return false;
        }
    }

    private bool TryGetFeature<T>(Feature feature, string name, ref T value)
        where T : unmanaged
    {
        try
        {
            GetFeature(feature, name, ref value);
            return true;
        }
        catch (VfioUserRemoteException e) when (IsUnknown(e.Errno))
        {
            return false;
        }
    }

    private void GetFeature<T>(Feature feature, string name, ref T value)
        where T : unmanaged
    {
        int expected = Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<T>();
        var request = new FeatureBody { ArgSize = (uint)expected, Flags = (FeatureFlags)feature | FeatureFlags.Get };
        FeatureBody reply = default;
        int length = _connection.Call(
            Command.DeviceFeature,
            name,
            Bytes(in request),
            [],
            [],
            MemoryMarshal.AsBytes(new Span<FeatureBody>(ref reply)),
            MemoryMarshal.AsBytes(new Span<T>(ref value)));
        if (length != expected)
            _connection.Violated($"{name} was answered with {length} bytes instead of {expected}");
    }

    /// <summary>Sets a feature; returns how much of <paramref name="replyData"/> the answer filled.</summary>
    private int SetFeature(Feature feature, string name, ReadOnlySpan<byte> data, Span<byte> replyData)
    {
        var request = new FeatureBody { ArgSize = (uint)(Unsafe.SizeOf<FeatureBody>() + data.Length), Flags = (FeatureFlags)feature | FeatureFlags.Set };
        FeatureBody reply = default;
        int length = _connection.Call(
            Command.DeviceFeature, name, Bytes(in request), data, [], MemoryMarshal.AsBytes(new Span<FeatureBody>(ref reply)), replyData);
        return Math.Max(0, length - Unsafe.SizeOf<FeatureBody>());
    }

    /// <summary>What devices answer for a feature they do not have: the kernel ENOTTY, servers also EINVAL or ENOTSUP.</summary>
    private static bool IsUnknown(Errno errno) => errno is Errno.EINVAL or Errno.ENOTTY or Errno.ENOTSUP;
}
