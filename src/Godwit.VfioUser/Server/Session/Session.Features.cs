using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE.</content>
internal sealed partial class Session
{
    /// <summary>Page sizes that the log is kept in; others are moved to the nearer end.</summary>
    private const ulong MinLogPage = 4096;

    /// <inheritdoc cref="MinLogPage"/>
    private const ulong MaxLogPage = 1UL << 30;

    private Errno DeviceFeature(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        if (!Wire.TryTake(body, out FeatureBody request, out ReadOnlySpan<byte> data) || request.ArgSize < Unsafe.SizeOf<FeatureBody>())
            return Errno.EINVAL;
        FeatureFlags methods = request.Flags & ~FeatureFlags.IndexMask;
        if (methods == 0 || (methods & ~(FeatureFlags.Get | FeatureFlags.Set | FeatureFlags.Probe)) != 0)
            return Errno.EINVAL;
        FeatureFlags offered = MethodsOf(request.Index);
        if (offered == 0)
            return Errno.ENOTTY;
        FeatureFlags wanted = methods & ~FeatureFlags.Probe;
        if ((wanted & ~offered) != 0)
            return Errno.EINVAL;
        if ((methods & FeatureFlags.Probe) != 0)
        {
            length = Echo(request, data);
            return Errno.None;
        }
        if (wanted == (FeatureFlags.Get | FeatureFlags.Set))
            return Errno.EINVAL;
        return (request.Index, wanted) switch
        {
            (Feature.Migration, _) => GetValue(request, (ulong)_description.Migration, out length),
            (Feature.MigrationDeviceState, FeatureFlags.Get) =>
                GetValue(request, new MigrationStateBody { State = (uint)_migration.State, DataFd = -1 }, out length),
            (Feature.MigrationDeviceState, _) => SetMigrationState(request, data, out length),
            (Feature.DmaLoggingStart, _) => StartLogging(request, data, out length),
            (Feature.DmaLoggingStop, _) => StopLogging(request, data, out length),
            (Feature.DmaLoggingReport, _) => ReportLog(request, data, out length),
            _ => GetValue(request, _device.StopCopySize, out length),
        };
    }

    /// <summary>What may be done with a feature; nothing when the device does not have it.</summary>
    private FeatureFlags MethodsOf(Feature feature)
    {
        bool migration = _description.Migration != MigrationSupport.None;
        return feature switch
        {
            Feature.Migration or Feature.MigrationDataSize when migration => FeatureFlags.Get,
            Feature.MigrationDeviceState when migration => FeatureFlags.Get | FeatureFlags.Set,
            Feature.DmaLoggingStart or Feature.DmaLoggingStop when _description.DmaLogging => FeatureFlags.Set,
            Feature.DmaLoggingReport when _description.DmaLogging => FeatureFlags.Get,
            _ => 0,
        };
    }

    private Errno GetValue<T>(FeatureBody request, T value, out int length)
        where T : unmanaged
    {
        int size = Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<T>();
        length = 0;
        if (request.ArgSize < size)
            return Errno.EINVAL;
        Span<byte> reply = ReserveReply(size);
        request.ArgSize = (uint)size;
        Wire.Put(reply[Wire.Put(reply, request)..], value);
        length = size;
        return Errno.None;
    }

    private Errno SetMigrationState(FeatureBody request, ReadOnlySpan<byte> data, out int length)
    {
        length = 0;
        if (!Wire.TryTake(data, out MigrationStateBody state, out _))
            return Errno.EINVAL;
        DeviceMigrationState before = _migration.State;
        Errno error = _migration.Go(state.State);
        if (before != _migration.State)
            _options.Log?.Invoke($"device state {before} -> {_migration.State}");
        if (error != Errno.None)
            return error;
        Span<byte> reply = ReserveReply(Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<MigrationStateBody>());
        request.ArgSize = (uint)reply.Length;
        Wire.Put(reply[Wire.Put(reply, request)..], state);
        length = reply.Length;
        return Errno.None;
    }

    private Errno StartLogging(FeatureBody request, ReadOnlySpan<byte> data, out int length)
    {
        length = 0;
        if (!Wire.TryTake(data, out LogControlBody control, out ReadOnlySpan<byte> rest))
            return Errno.EINVAL;
        if (_host.Log is not null || !ulong.IsPow2(control.PageSize))
            return Errno.EINVAL;
        if (control.RangeCount > WireLimits.MaxLogRanges)
            return Errno.E2BIG;
        int count = (int)control.RangeCount;
        if (rest.Length < count * Unsafe.SizeOf<SpanBody>())
            return Errno.EINVAL;
        LogRanges? armed = LogRanges.All;
        var ranges = new DmaRange[count];
        if (count != 0)
        {
            for (int i = 0; i < count; i++)
            {
                Wire.TryTake(rest, out SpanBody range, out rest);
                ranges[i] = new DmaRange(new DmaAddress(range.Start), range.Length);
            }
            Errno error = LogRanges.TryCreate(control.PageSize, ranges, out armed);
            if (error != Errno.None)
                return error;
        }
        Errno refusal = _options.LogLimits.Check(ranges);
        if (refusal != Errno.None)
            return refusal;
        control.PageSize = Math.Clamp(control.PageSize, Math.Max(MinLogPage, _options.LogLimits.PageSize), MaxLogPage);
        _host.StartLog(new DmaLog(control.PageSize, armed!));
        // The request comes back with the page size that was chosen.
        length = Echo(request, data[..(Unsafe.SizeOf<LogControlBody>() + count * Unsafe.SizeOf<SpanBody>())]);
        Wire.Put(ReserveReply(length)[Unsafe.SizeOf<FeatureBody>()..], control);
        return Errno.None;
    }

    private Errno StopLogging(FeatureBody request, ReadOnlySpan<byte> data, out int length)
    {
        length = 0;
        if (_host.Log is null)
            return Errno.EINVAL;
        _host.StopLog();
        length = Echo(request, data); // some clients send a START control along
        return Errno.None;
    }

    private Errno ReportLog(FeatureBody request, ReadOnlySpan<byte> data, out int length)
    {
        length = 0;
        if (_host.Log is not { } log || !Wire.TryTake(data, out LogReportBody report, out _))
            return Errno.EINVAL;
        if (!ulong.IsPow2(report.PageSize) || report.PageSize < MinLogPage
            || report.Length == 0 || ((report.Address | report.Length) & (report.PageSize - 1)) != 0
            || report.Length - 1 > ulong.MaxValue - report.Address)
        {
            return Errno.EINVAL;
        }
        int head = Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<LogReportBody>();
        ulong bytes = Wire.BitmapBytes(report.Length, report.PageSize);
        if (bytes > (ulong)Math.Min(_client.MaxTransfer, WireLimits.MaxTransfer))
            return Errno.E2BIG;
        // Checked before the marks are cleared: an answer that does not fit must not lose them.
        if (request.ArgSize < (ulong)head + bytes)
            return Errno.EINVAL;
        Span<byte> reply = ReserveReply(head + (int)bytes);
        request.ArgSize = (uint)reply.Length;
        Wire.Put(reply[Wire.Put(reply, request)..], report);
        FillBitmap(log, report.Address, report.Length, report.PageSize, reply[head..]);
        length = reply.Length;
        return Errno.None;
    }

    private Errno MigrationDataRead(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        int head = Unsafe.SizeOf<MigrationDataBody>();
        if (!Wire.TryTake(body, out MigrationDataBody request, out _) || !_migration.CanRead
            || request.Size > (uint)Math.Min(_client.MaxTransfer, WireLimits.MaxTransfer) || request.ArgSize < (ulong)head + request.Size)
        {
            return Errno.EINVAL;
        }
        Span<byte> reply = ReserveReply(head + (int)request.Size);
        int read = request.Size == 0 ? 0 : _device.ReadMigrationData(reply[head..]);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)read, request.Size);
        length = head + read;
        Wire.Put(reply, new MigrationDataBody { ArgSize = (uint)length, Size = (uint)read });
        return Errno.None;
    }

    private Errno MigrationDataWrite(ReadOnlySpan<byte> body)
    {
        int head = Unsafe.SizeOf<MigrationDataBody>();
        if (!Wire.TryTake(body, out MigrationDataBody request, out ReadOnlySpan<byte> data) || !_migration.CanWrite
            || request.Size > (uint)data.Length || request.Size > WireLimits.MaxTransfer || request.ArgSize < (ulong)head + request.Size)
        {
            return Errno.EINVAL;
        }
        return request.Size == 0 ? Errno.None : _device.WriteMigrationData(data[..(int)request.Size]);
    }

    /// <summary>Answers with the request itself.</summary>
    private int Echo(FeatureBody request, ReadOnlySpan<byte> data)
    {
        Span<byte> reply = ReserveReply(Unsafe.SizeOf<FeatureBody>() + data.Length);
        request.ArgSize = (uint)reply.Length;
        data.CopyTo(reply[Wire.Put(reply, request)..]);
        return reply.Length;
    }
}
