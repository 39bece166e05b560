namespace Godwit.Machine;

/// <summary>All vCPUs of a machine, run and stopped together.</summary>
internal sealed class VcpuSet(IReadOnlyList<IVcpu> vcpus, TimeProvider clock) : IDisposable
{
    public IReadOnlyList<IVcpu> All => vcpus;

    /// <summary>Text of the first vCPU that has panicked, or null.</summary>
    public string? PanicText => vcpus.Select(v => v.PanicText).FirstOrDefault(text => text is not null);

    public void Run()
    {
        foreach (IVcpu vcpu in vcpus)
            vcpu.Run();
    }

    /// <summary>The barrier: on return no vCPU executes.</summary>
    /// <exception cref="TimeoutException">One did not stop in time; all run on.</exception>
    public void Stop(TimeSpan deadline)
    {
        foreach (IVcpu vcpu in vcpus)
            vcpu.RequestStop();

        long start = clock.GetTimestamp();
        foreach (IVcpu vcpu in vcpus)
        {
            TimeSpan left = deadline - clock.GetElapsedTime(start);
            if (vcpu.WaitStopped(left > TimeSpan.Zero ? left : TimeSpan.Zero))
                continue;
            Run();
            throw new TimeoutException(
                $"vCPU {vcpu.ApicId} did not stop within {deadline.TotalMilliseconds:0} ms (a device may not be answering); the machine runs on.");
        }
    }

    public void Dispose()
    {
        foreach (IVcpu vcpu in vcpus)
            vcpu.Dispose();
    }
}
