using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Remembers what an outgoing migration has done to its machine and takes it back in the right order: devices run before vCPUs do, logs are
/// let go only when nothing is read from them any more. One failing step does not keep the others from being taken.
/// </summary>
internal sealed class SourceUndo(IMigrationHost host)
{
    private readonly List<IDirtyTracker> _trackers = [];
    private readonly List<IMigratableDevice> _devices = [];
    private bool _log;
    private bool _stopping;
    private bool _throttled;

    /// <summary>Starts the dirty log and then the trackers: all, or (by <see cref="TakeBack"/>) none.</summary>
    internal void StartTracking()
    {
        host.Ram.Dirty.Start();
        _log = true;
        foreach (IDirtyTracker tracker in host.DirtyTrackers)
        {
            tracker.Start();
            _trackers.Add(tracker);
        }
    }

    /// <summary>To pre-copy. A device that is being changed counts as changed: recovering one that was not does nothing.</summary>
    internal void BeginSave(IMigratableDevice device)
    {
        _devices.Add(device);
        device.BeginSave();
    }

    /// <summary>Slows the vCPUs.</summary>
    internal void Throttle(int percent)
    {
        _throttled = true;
        host.ThrottleVcpus(percent);
    }

    /// <summary>Stops the vCPUs. Trying counts: resuming a machine that was not stopped does nothing.</summary>
    internal void StopForSwitchover()
    {
        _stopping = true;
        host.StopForSwitchover();
    }

    /// <summary>After a failure: the machine as it was. Returns what went wrong on the way.</summary>
    internal List<string> TakeBack()
    {
        var problems = new List<string>();
        foreach (IMigratableDevice device in Enumerable.Reverse(_devices))
            Try(problems, $"recovering {device.Id}", device.Recover);
        StopTracking(problems);
        EndThrottle(problems);
        if (_stopping)
            Try(problems, "resuming the machine", host.ResumeAfterFailure);
        return problems;
    }

    /// <summary>After the commit: this side stays stopped and lets go.</summary>
    internal List<string> LetGo()
    {
        var problems = new List<string>();
        Try(problems, "entering postmigrate", host.EnterPostMigrate);
        foreach (IMigratableDevice device in _devices)
            Try(problems, $"ending the transfer of {device.Id}", device.EndSave);
        StopTracking(problems);
        EndThrottle(problems);
        return problems;
    }

    private void EndThrottle(List<string> problems)
    {
        if (_throttled)
            Try(problems, "letting the vCPUs run at full speed", () => host.ThrottleVcpus(0));
    }

    private void StopTracking(List<string> problems)
    {
        foreach (IDirtyTracker tracker in Enumerable.Reverse(_trackers))
            Try(problems, $"ending dirty tracking of {tracker.Id}", tracker.Stop);
        DirtyLog log = host.Ram.Dirty;
        // Drained marks that were not sent go with it: the next migration begins with every page marked.
        if (_log)
            Try(problems, "ending the dirty log", log.Stop);
    }

    private static void Try(List<string> problems, string what, Action step)
    {
        try
        {
            step();
        }
        catch (Exception e)
        {
            problems.Add($"{what} failed: {e.Message}");
        }
    }
}
