using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>From stopping the guest to its running on the other side.</summary>
internal sealed partial class OutgoingMigration
{
    // Saving a state may write guest memory (a status word, a pending message). One more round takes it; more than this many means that
    // something still runs.
    private const int MaxLateRounds = 3;

    private bool _runsThere;

    private void SwitchOver()
    {
        DowntimeClock downtime = StopGuest();
        StopDevices();
        downtime.Lap(static (parts, time) => parts with { StopDevices = parts.StopDevices + time });

        _phase = "the last synchronisation of the dirty log";
        DirtyMarks before = DirtyMarks.Of(_host.Ram.Dirty);
        SyncTotals sync = SyncTrackers(final: true);
        downtime.Lap(static (parts, time) => parts with { FinalSync = parts.FinalSync + time });

        _progress.RamRemainingBytes = PageBytes(_host.Ram.Dirty.Count());
        RoundCounts last = SendRound(final: true);
        AddRound(last, DirtyMarks.Of(_host.Ram.Dirty).Since(before), sync, last.Time, null, TimeSpan.Zero);
        downtime.Lap(static (parts, time) => parts with { FinalPages = parts.FinalPages + time });

        SendDeviceStates();
        downtime.Lap(static (parts, time) => parts with { DeviceState = parts.DeviceState + time });

        SendMachineStates();
        downtime.Lap(static (parts, time) => parts with { MachineState = parts.MachineState + time });

        SendLatePages();
        downtime.Lap(static (parts, time) => parts with { FinalPages = parts.FinalPages + time });

        Load(downtime);
        Commit(downtime);
    }

    /// <summary>The downtime begins.</summary>
    private DowntimeClock StopGuest()
    {
        if (!_settings.PauseBeforeSwitchover)
            SetState(MigrationState.Device);
        _unlimited = true;
        var downtime = new DowntimeClock(_clock);
        _phase = "stopping the vCPUs";
        _undo.StopForSwitchover();
        downtime.Lap(static (parts, time) => parts with { StopVcpus = parts.StopVcpus + time });
        if (_settings.PauseBeforeSwitchover)
        {
            Pause();
            downtime.Lap(static (parts, time) => parts with { Pause = time });
        }

        return downtime;
    }

    /// <summary>Everything has been sent: the destination loads it and, if asked to, compares.</summary>
    private void Load(DowntimeClock downtime)
    {
        _phase = "loading on the destination";
        Link.Prepare(new PrepareMessage(_round, _host.Devices.Count, _host.States.Count));
        downtime.Lap(static (parts, time) => parts with { Load = parts.Load + time });
        if (!_settings.VerifyPages)
            return;
        Verify();
        downtime.Lap(static (parts, time) => parts with { Verification = parts.Verification + time });
    }

    private void Pause()
    {
        _phase = "waiting for migrate-continue";
        SetState(MigrationState.PreSwitchover);
        Link.WaitForOperator(() => _continued);
        SetState(MigrationState.Device);
    }

    private void StopDevices()
    {
        foreach (IMigratableDevice device in _host.Devices)
        {
            _phase = $"quiescing {device.Id}";
            device.Quiesce();
        }

        foreach (IMigratableDevice device in _host.Devices)
        {
            _phase = $"stopping {device.Id}";
            device.StopAndCopy();
        }
    }

    private void SendDeviceStates()
    {
        for (int i = 0; i < _host.Devices.Count; i++)
        {
            _phase = $"sending the state of {_host.Devices[i].Id}";
            while (SendDeviceChunk(i) > 0)
            {
                Link.ThrowIfDown();
                _progress.PublishSometimes();
            }

            _payload.ResetWrittenCount();
            new DeviceEndMessage(i, (ulong)_deviceBytes[i]).Write(_payload);
            Link.Writer.Write(FrameType.DeviceStateEnd, _payload.WrittenSpan);
        }

        Link.Writer.Flush();
    }

    private void SendLatePages()
    {
        for (int late = 0; _host.Ram.Dirty.Count() is var count && count > 0; late++)
        {
            if (late == MaxLateRounds)
            {
                throw new MigrationFailedException(
                    $"{count} pages of RAM were written after the machine was stopped and its state saved; something still runs");
            }

            SendRound(final: true);
        }
    }

    /// <summary>Sends checksums of all pages and fails when the destination finds one that differs.</summary>
    private void Verify()
    {
        _phase = "comparing the pages";
        Link.Writer.Write(FrameType.VerifyBegin, default);
        byte[] sums = GC.AllocateUninitializedArray<byte>(StreamFormat.MaxChecksumsPerFrame * PageChecksum.Size);
        Span<byte> head = stackalloc byte[PageRun.Size];
        for (int i = 0; i < _host.Ram.Blocks.Count; i++)
        {
            RamBlock block = _host.Ram.Blocks[i];
            for (ulong page = 0; page < block.PageCount;)
            {
                var run = new PageRun(i, page, Math.Min(StreamFormat.MaxChecksumsPerFrame, block.PageCount - page));
                PageChecksum.ComputeRun(block, run, sums);
                run.Write(head);
                Link.Writer.Write(FrameType.PageChecksums, head, sums.AsSpan(0, (int)run.Count * PageChecksum.Size));
                Link.Writer.Flush();
                Link.ThrowIfDown();
                page += run.Count;
            }
        }

        VerifyResultMessage result = Link.EndVerification();
        PageVerification verification = Verification.Name(_host.Ram, result);
        _progress.Verification = verification;
        _progress.Publish();
        if (result.Compared != _host.Ram.PageCount)
            throw new MigrationFailedException($"The destination compared {result.Compared} of {_host.Ram.PageCount} pages");
        if (result.Differing > 0)
            throw new MigrationFailedException(Verification.Explain(verification));
    }

    private void Commit(DowntimeClock downtime)
    {
        _phase = "committing";
        bool running = _host.IsRunning;
        _wakeup.PassCommitPoint();
        Link.Commit(running);
        // Not a moment earlier: a commit that could not be sent whole was not made.
        Volatile.Write(ref _committed, true);
        _phase = "starting on the destination";
        Link.WaitForRunning();
        _runsThere = true;
        // The destination may say nothing that was not waited for.
        TimeSpan told = Link.StartTime;
        downtime.Lap((parts, time) => told < time ? parts with { Commit = time - told, Start = told } : parts with { Start = time });
        _progress.Downtime = downtime.Parts;
        _progress.ExpectedDowntime = null;
        _progress.StreamBytes = SentBytes;
    }
}
