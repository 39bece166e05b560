using System.Buffers;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>Rounds of pages while the guest runs.</summary>
internal sealed partial class OutgoingMigration : ISendPace
{
    // Device state sent per piece of RAM, and at the end of a round, so that neither starves the other.
    private const long DeviceBytesPerPiece = 4 << 20;
    private const long DeviceBytesPerRound = 64 << 20;

    // What a device that cannot say is assumed to have left when it is stopped.
    private const long UnknownDeviceBytes = 16 << 20;

    // Stopping vCPUs and devices; what cannot be measured before it happens.
    private static readonly TimeSpan StopAllowance = TimeSpan.FromMilliseconds(5);

    // A wait for bandwidth comes in pieces of at most this: the status stays fresh, and a timer has a largest time.
    private static readonly TimeSpan LongestPause = TimeSpan.FromSeconds(1);

    private readonly RateEstimator _rate = new();
    private readonly ArrayBufferWriter<byte> _payload = new();
    private readonly byte[] _chunk = GC.AllocateUninitializedArray<byte>(StreamFormat.MaxDeviceChunk);
    private RamSender? _sender;
    private long[] _deviceBytes = [];
    private volatile bool _unlimited; // the guest is stopped: no bandwidth limit
    private uint _round;
    private long _metered;
    private TimeSpan _ackTime = TimeSpan.MaxValue; // the shortest so far: a round trip
    private TimeSpan _syncTime;
    private DestinationNeeds _needs;
    private TimeSpan _raisedLimit; // by relief; the setting counts where it is higher
    private long _pagesBefore; // the progress when the round began
    private long _zerosBefore;
    private long _remainingBefore;

    private RamSender Sender => _sender ??= new RamSender(_host.Ram, Link.Writer, _channels, Compression, _bandwidth, this);

    /// <summary>A file holds pages as they are.</summary>
    private PageCompression Compression => _uri is FileMigrationUri ? PageCompression.None : _settings.Compression;

    /// <summary>Bytes on all connections.</summary>
    private long SentBytes => Link.Writer.Bytes + (_channels?.Bytes ?? 0);

    /// <inheritdoc/>
    void ISendPace.PagesSent()
    {
        Link.ThrowIfDown();
        CountSent();
        _progress.PublishSometimes();
        Meter();
    }

    /// <inheritdoc/>
    void ISendPace.PieceDone()
    {
        if (!_unlimited)
            SendDeviceData(DeviceBytesPerPiece);
    }

    /// <summary>Times that a switchover is put off for a reason that may pass, before it is one to give up.</summary>
    private const int BlockedSwitchovers = 20;

    private int _blockedSwitchovers;

    private void Precopy()
    {
        _deviceBytes = new long[_host.Devices.Count];
        var history = new ConvergenceHistory(_clock);
        long began = _clock.GetTimestamp();
        long deviceBytes = 0;
        _progress.RamRemainingBytes = PageBytes(_host.Ram.Dirty.Count());
        for (; ; )
        {
            long roundBegan = _clock.GetTimestamp();
            long found = _progress.RamRemainingBytes;
            DirtyMarks before = DirtyMarks.Of(_host.Ram.Dirty);
            RoundCounts sent = SendRound(final: false);

            _phase = $"synchronising the dirty log after round {_round}";
            SyncTotals sync = SyncTrackers(final: false);
            long remaining = PageBytes(_host.Ram.Dirty.Count());
            TimeSpan time = _clock.GetElapsedTime(roundBegan);
            DirtyMarks marked = DirtyMarks.Of(_host.Ram.Dirty).Since(before);
            MigrationParameters live = _live();
            TimeSpan limit = live.DowntimeLimit > _raisedLimit ? live.DowntimeLimit : _raisedLimit;
            var input = new ConvergenceInput
            {
                PrecopyTime = _clock.GetElapsedTime(began),
                RoundBytes = found,
                RemainingBytes = remaining,
                UncoveredBytes = PageBytes((ulong)sync.Uncovered),
                UnharvestedBytes = PageBytes((ulong)sync.Unharvested),
                RoundDeviceBytes = deviceBytes,
                DeviceBytes = PendingDeviceBytes(),
                BytesPerSecond = _rate.BytesPerSecond,
                StopTime = StopAllowance,
                SyncTime = _syncTime,
                RoundTrip = _ackTime,
                Destination = _needs,
                DestinationMeasured = MeasuredNeeds,
                LeastDestinationTime = history.LeastDestinationTime,
                Rates = marked.PerSecond(time),
                UnconvergedRounds = history.UnconvergedRounds,
                RoundsSinceBest = history.RoundsSinceBest,
                TimeSinceBest = history.TimeSinceBest,
                OutpacedRounds = history.OutpacedRounds,
                OutpacedTime = history.OutpacedTime,
                DowntimeLimit = limit,
                OnStall = live.OnStall,
                MaxDowntime = live.MaxDowntime,
                MaxThrottle = live.MaxThrottle,
                Throttle = _progress.ThrottlePercent,
                MinimumPrecopy = live.MinimumPrecopy,
                MaxRounds = _settings.MaxRounds,
            };
            deviceBytes = input.DeviceBytes;
            ConvergenceDecision decision = Convergence.Decide(input);
            history.Add(input, decision);
            _progress.RamRemainingBytes = remaining;
            _progress.Rates = input.Rates;
            _progress.ExpectedDowntime = decision.ExpectedDowntime;
            _progress.Expected = decision.Expected;
            _progress.DowntimeLimit = limit;
            _progress.Outlook = decision.Outlook;
            AddRound(sent, marked, sync, time, input, decision.ExpectedDowntime);
            if (decision.Relief is { } relief)
                Relieve(relief);

            switch (decision.Step)
            {
                case ConvergenceStep.SwitchOver:
                    _phase = "asking once more for reasons against";
                    if (IsFreeToStop())
                        return;
                    WaitAfterRound(_times.HoldPause);
                    break;
                case ConvergenceStep.GiveUp:
                    throw new MigrationFailedException(decision.Reason!);
                case ConvergenceStep.Hold:
                    WaitAfterRound(_times.HoldPause);
                    break;
                case ConvergenceStep.Continue when time < _times.ShortRound:
                    // Little is left to send but much to do (device state, say): rounds in a hurry would only load both machines.
                    WaitAfterRound(_times.ShortRound - time);
                    break;
            }
        }
    }

    private void Relieve(in Relief relief)
    {
        _phase = "slowing the vCPUs";
        _raisedLimit = relief.DowntimeLimit;
        if (relief.Throttle != _progress.ThrottlePercent)
            _undo.Throttle(relief.Throttle);
        _progress.ThrottlePercent = relief.Throttle;
        _progress.DowntimeLimit = relief.DowntimeLimit;
        _progress.Publish();
    }

    private void WaitAfterRound(TimeSpan time)
    {
        _phase = $"waiting after round {_round}";
        Link.Pause(time, static () => false);
    }

    /// <summary>Sends every page that is marked, and what devices have to say meanwhile; returns when the destination has counted it.</summary>
    private RoundCounts SendRound(bool final)
    {
        _round++;
        _phase = final ? "sending the last pages" : $"round {_round}";
        PassStarted?.Invoke((int)_round);
        long began = _clock.GetTimestamp();
        long bytesBefore = SentBytes;
        _payload.ResetWrittenCount();
        new RoundBeginMessage(_round, final).Write(_payload);
        Link.Writer.Write(FrameType.RoundBegin, _payload.WrittenSpan);
        if (_channels is not null)
            Link.Writer.Flush(); // the destination takes their pages once the round has begun
        if (!final)
        {
            // Before the pages: what a device or a model takes to give its state is not in the time of the link then.
            SendDeviceData(DeviceBytesPerRound);
            SendStatesAhead();
        }

        long pagesBegan = _clock.GetTimestamp();
        long pageBytesBefore = SentBytes;
        Sender.BeginRound();
        (_pagesBefore, _zerosBefore, _remainingBefore) = (_progress.NormalPages, _progress.ZeroPages, _progress.RamRemainingBytes);
        Sender.SendDirty(_round);
        CountSent();
        TimeSpan elsewhere = Sender.ZeroTime; // not the link's
        long ended = _clock.GetTimestamp();
        Link.EndRound(new RoundEndMessage(_round, Sender.Pages, Sender.ZeroPages));
        if (!final)
        {
            Link.WaitForAck(_round);
            TimeSpan waited = _clock.GetElapsedTime(ended);
            TimeSpan ackTime = TakeNeeds(waited);
            _ackTime = ackTime < _ackTime ? ackTime : _ackTime;
            elsewhere += waited - ackTime;
        }

        TimeSpan time = _clock.GetElapsedTime(began);
        long bytes = SentBytes - bytesBefore;
        if (!final)
        {
            _rate.Add(SentBytes - pageBytesBefore, _clock.GetElapsedTime(pagesBegan) - elsewhere);
            _progress.BytesPerSecond = _rate.BytesPerSecond;
        }

        return new RoundCounts((long)Sender.Pages, (long)Sender.ZeroPages, bytes, time);
    }

    private void CountSent()
    {
        _progress.NormalPages = _pagesBefore + (long)Sender.Pages;
        _progress.ZeroPages = _zerosBefore + (long)Sender.ZeroPages;
        _progress.RamRemainingBytes = _remainingBefore - PageBytes(Sender.Pages + Sender.ZeroPages);
        _progress.StreamBytes = SentBytes;
    }

    /// <summary>Waits while the bandwidth limit says so. The limit may change while it does.</summary>
    private void Meter()
    {
        long bytes = Link.Writer.Bytes;
        TimeSpan wait = _bandwidth.Take(bytes - _metered);
        _metered = bytes;
        while (wait > TimeSpan.Zero)
        {
            Link.Writer.Flush();
            _progress.Publish();
            long rate = _live().MaxBandwidth;
            Link.Pause(wait < LongestPause ? wait : LongestPause, () => _live().MaxBandwidth != rate);
            wait = _bandwidth.Remaining();
        }
    }

    /// <summary>Sends pre-copy data of each device until it has none, or <paramref name="atMost"/> bytes of it.</summary>
    private void SendDeviceData(long atMost)
    {
        for (int i = 0; i < _host.Devices.Count; i++)
        {
            for (long sent = 0; sent < atMost;)
            {
                int count = SendDeviceChunk(i);
                if (count == 0)
                    break;
                sent += count;
                Link.ThrowIfDown();
                Meter();
            }
        }
    }

    private int SendDeviceChunk(int index)
    {
        int count = _host.Devices[index].ReadState(_chunk);
        if (count == 0)
            return 0;
        if (count < 0 || count > _chunk.Length)
            throw new InvalidDataException($"{_host.Devices[index].Id} returned {count} bytes of state; the buffer has {_chunk.Length}");
        _payload.ResetWrittenCount();
        new DeviceChunk(index).Write(_payload);
        Link.Writer.Write(FrameType.DeviceState, _payload.WrittenSpan, _chunk.AsSpan(0, count));
        _deviceBytes[index] += count;
        _progress.DeviceStateBytes += count;
        return count;
    }

    private SyncTotals SyncTrackers(bool final)
    {
        long began = _clock.GetTimestamp();
        int reports = 0;
        long mappings = 0, uncovered = 0, unharvested = 0;
        foreach (IDirtyTracker tracker in _host.DirtyTrackers)
        {
            DirtySyncReport report = tracker.Sync(final);
            reports += report.Reports;
            mappings += report.Mappings;
            uncovered += report.UncoveredPages;
            unharvested += report.UnharvestedPages;
        }

        _syncTime = _clock.GetElapsedTime(began);
        _progress.LogReports += reports;
        _progress.MappingsLive = mappings;
        return new SyncTotals(reports, uncovered, unharvested);
    }

    private long PendingDeviceBytes()
    {
        UInt128 sum = 0;
        foreach (IMigratableDevice device in _host.Devices)
            sum += device.PendingBytes ?? UnknownDeviceBytes;
        return sum > long.MaxValue ? long.MaxValue : (long)sum;
    }

    private void AddRound(
        in RoundCounts sent, in DirtyMarks marked, in SyncTotals sync, TimeSpan time, ConvergenceInput? estimate, TimeSpan expected) =>
        _progress.AddRound(new MigrationRound
        {
            Number = (int)_round,
            Duration = time,
            PagesSent = sent.Pages,
            ZeroPages = sent.ZeroPages,
            BytesSent = sent.Bytes,
            DirtyPagesVcpu = marked.Vcpu,
            DirtyPagesDevice = marked.Device,
            DirtyPagesVmm = marked.Vmm,
            LogReports = sync.Reports,
            RemainingPages = (estimate?.RemainingBytes ?? 0) / RamPage.Size,
            UncoveredPages = sync.Uncovered,
            UnharvestedPages = sync.Unharvested,
            DeviceBytes = estimate?.DeviceBytes ?? 0,
            SwitchoverTime = estimate?.SwitchoverTime ?? TimeSpan.Zero,
            DestinationLoadTime = estimate?.Destination.Load ?? TimeSpan.Zero,
            DestinationStartTime = estimate?.Destination.Start ?? TimeSpan.Zero,
            BytesPerSecond = sent.Time > TimeSpan.Zero ? sent.Bytes / sent.Time.TotalSeconds : 0,
            LinkBytesPerSecond = _rate.BytesPerSecond,
            ExpectedDowntime = expected,
            DowntimeLimit = estimate?.DowntimeLimit ?? TimeSpan.Zero,
            ThrottlePercent = estimate?.Throttle ?? 0,
        });

    private static long PageBytes(ulong pages) => (long)pages * RamPage.Size;

    private readonly record struct RoundCounts(long Pages, long ZeroPages, long Bytes, TimeSpan Time);

    private readonly record struct SyncTotals(int Reports, long Uncovered, long Unharvested);

    /// <summary>The dirty log's counters by source.</summary>
    private readonly record struct DirtyMarks(long Vcpu, long Device, long Vmm)
    {
        internal static DirtyMarks Of(DirtyLog log) =>
            new(log.MarkedBy(DirtySource.Vcpu), log.MarkedBy(DirtySource.Device), log.MarkedBy(DirtySource.Vmm));

        internal DirtyMarks Since(in DirtyMarks before) => new(Vcpu - before.Vcpu, Device - before.Device, Vmm - before.Vmm);

        internal DirtyRates PerSecond(TimeSpan time)
        {
            double seconds = Math.Max(time.TotalSeconds, 1e-6);
            return new DirtyRates(Vcpu / seconds, Device / seconds, Vmm / seconds);
        }
    }
}
