using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>A handover to another process of this host: RAM goes by descriptor, so there are no rounds, and nothing is tracked.</summary>
internal sealed partial class OutgoingMigration
{
    /// <summary>It is one.</summary>
    internal bool HandsOver => _uri is LocalMigrationUri;

    /// <summary>
    /// Everything that can fail for the destination's part is asked for before the guest stops. The destination only looks at the RAM until the
    /// commit, so this side goes on by itself whatever happens before.
    /// </summary>
    private void HandOver()
    {
        _phase = "passing on the files of the RAM";
        FileDescriptor[] files = [.. _host.Ram.Blocks.Select(block => block.File)];
        Link.PassFiles(RamFilesMessage.Of(_host.Ram), files);
        _progress.SetupTime = _progress.Elapsed;
        SetState(MigrationState.Active);
        _phase = "asking once more for reasons against";
        ThrowIfBlocked();

        DowntimeClock downtime = StopGuest();
        SendMachineStates();
        downtime.Lap(static (parts, time) => parts with { MachineState = parts.MachineState + time });
        Load(downtime);
        Commit(downtime);
        _progress.RamByFileBytes = _progress.RamTotalBytes;
    }
}
