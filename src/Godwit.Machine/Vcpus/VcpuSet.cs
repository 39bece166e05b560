using Godwit.Iommu.Intel;

namespace Godwit.Machine;

/// <summary>All vCPUs of a machine, run and stopped together, and with them the vIOMMU, which works for them by itself.</summary>
internal sealed class VcpuSet(IReadOnlyList<IVcpu> vcpus, TimeProvider clock, IntelIommu? iommu = null) : IDisposable
{
    public IReadOnlyList<IVcpu> All => vcpus;

    /// <summary>Text of the first vCPU that has panicked, or why the vIOMMU works for none any more, or null.</summary>
    public string? PanicText => vcpus.Select(v => v.PanicText).FirstOrDefault(text => text is not null)
        ?? (iommu?.Failure is { } failure ? $"The vIOMMU failed: {failure.GetType().Name}: {failure.Message}" : null);

    public void Run()
    {
        iommu?.Resume();
        foreach (IVcpu vcpu in vcpus)
            vcpu.Run();
    }

    /// <summary>
    /// The barrier: on return no vCPU executes, and the vIOMMU rests, perhaps in the middle of what a vCPU told it to do. The vCPUs stop first: one
    /// may be waiting for the vIOMMU.
    /// </summary>
    /// <exception cref="TimeoutException">One did not stop in time, or the vIOMMU did not come to rest; all run on.</exception>
    public void Stop(TimeSpan deadline)
    {
        iommu?.RequestPause();
        foreach (IVcpu vcpu in vcpus)
            vcpu.RequestStop();

        long start = clock.GetTimestamp();
        foreach (IVcpu vcpu in vcpus)
        {
            if (!vcpu.WaitStopped(Left()))
                RunOn($"vCPU {vcpu.ApicId} did not stop");
        }

        if (iommu?.TryPause(Left()) == false)
            RunOn("The vIOMMU did not come to rest");

        TimeSpan Left()
        {
            TimeSpan left = deadline - clock.GetElapsedTime(start);
            return left > TimeSpan.Zero ? left : TimeSpan.Zero;
        }

        // The vIOMMU has not been paused, so nothing has to be resumed: that would wait for whom one has waited for long enough.
        void RunOn(string what)
        {
            iommu?.CancelPauseRequest();
            foreach (IVcpu vcpu in vcpus)
                vcpu.Run();
            throw new TimeoutException(
                $"{what} within {deadline.TotalMilliseconds:0} ms (a device may not be answering); the machine runs on.");
        }
    }

    public void Dispose()
    {
        foreach (IVcpu vcpu in vcpus)
            vcpu.Dispose();
        iommu?.Pause();
    }
}
