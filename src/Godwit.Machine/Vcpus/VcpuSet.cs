using Godwit.Iommu.Intel;

namespace Godwit.Machine;

/// <summary>All vCPUs of a machine, run and stopped together, and with them the vIOMMU, which works for them by itself.</summary>
internal sealed class VcpuSet(IReadOnlyList<IVcpu> vcpus, TimeProvider clock, IntelIommu? iommu = null) : IDisposable
{
    public IReadOnlyList<IVcpu> All => vcpus;

    private bool _runWanted; // the last that was asked for; under the machine's control lock

    /// <summary>Text of the first vCPU that has panicked, or why the vIOMMU works for none any more, or null.</summary>
    public string? PanicText => vcpus.Select(v => v.PanicText).FirstOrDefault(text => text is not null)
        ?? (IommuFailureText is { } text ? $"The vIOMMU failed: {text}" : null);

    /// <summary>What went wrong in the vIOMMU, or null.</summary>
    public string? IommuFailureText => iommu?.Failure is { } failure ? $"{failure.GetType().Name}: {failure.Message}" : null;

    public void Run()
    {
        _runWanted = true;
        iommu?.Resume();
        foreach (IVcpu vcpu in vcpus)
            vcpu.Run();
    }

    /// <summary>
    /// Has all stop soon, and waits for none: the guest has ended. The vIOMMU's work for them ends with them, and what it has left it does by itself.
    /// </summary>
    public void RequestStop()
    {
        _runWanted = false;
        iommu?.RequestPause();
        foreach (IVcpu vcpu in vcpus)
            vcpu.RequestStop();
    }

    /// <summary>
    /// The barrier: on return no vCPU executes, and the vIOMMU rests, perhaps in the middle of what a vCPU told it to do. The vCPUs stop first: one
    /// may be waiting for the vIOMMU.
    /// </summary>
    /// <exception cref="TimeoutException">One did not stop in time, or the vIOMMU did not come to rest; all that were to run run on.</exception>
    /// <exception cref="InvalidOperationException">The vIOMMU has failed, before or while it came to rest: its machine is about to end the guest.</exception>
    public void Stop(TimeSpan deadline)
    {
        ThrowIfFailed();
        bool ran = _runWanted;
        RequestStop();

        long start = clock.GetTimestamp();
        foreach (IVcpu vcpu in vcpus)
        {
            if (!vcpu.WaitStopped(Left()))
                RunOn($"vCPU {vcpu.ApicId} did not stop");
        }

        if (iommu?.TryPause(Left()) == false)
            RunOn("The vIOMMU did not come to rest");
        ThrowIfFailed();

        void ThrowIfFailed()
        {
            if (IommuFailureText is { } text)
                throw new InvalidOperationException($"The vIOMMU has failed: {text}", iommu!.Failure);
        }

        TimeSpan Left()
        {
            TimeSpan left = deadline - clock.GetElapsedTime(start);
            return left > TimeSpan.Zero ? left : TimeSpan.Zero;
        }

        // The vIOMMU has not been paused, so nothing has to be resumed: that would wait for whom one has waited for long enough. What was to stop
        // before (the guest has ended) is not to run because somebody asked for the same and did not see it in time.
        void RunOn(string what)
        {
            string late = $"{what} within {deadline.TotalMilliseconds:0} ms (a device may not be answering)";
            if (!ran)
                throw new TimeoutException($"{late}; it was to stop before.");
            _runWanted = true;
            iommu?.CancelPauseRequest();
            foreach (IVcpu vcpu in vcpus)
                vcpu.Run();
            throw new TimeoutException($"{late}; the machine runs on.");
        }
    }

    public void Dispose()
    {
        foreach (IVcpu vcpu in vcpus)
            vcpu.Dispose();
        iommu?.Pause();
    }
}
