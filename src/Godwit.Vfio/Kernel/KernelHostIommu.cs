using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>The dirty bits of an address space of the host, as the tracker wants them.</summary>
/// <param name="space">The address space.</param>
/// <param name="traits">What its bits are like.</param>
/// <param name="note">Books an unmap as one of the queued operations.</param>
internal sealed class KernelHostIommu(IHostAddressSpace space, HostIommuTraits traits, Action<Errno> note) : IHostIommu
{
    /// <inheritdoc/>
    public HostIommuTraits Traits { get; } = traits;

    /// <inheritdoc/>
    public void StartDirtyTracking() => Throw("to set dirty bits", Guarded(() => space.SetDirtyTracking(true)));

    /// <inheritdoc/>
    public void StopDirtyTracking() => Throw("to set no more dirty bits", Guarded(() => space.SetDirtyTracking(false)));

    /// <inheritdoc/>
    public void QueryDirty(IovaPages range, Span<ulong> bitmap)
    {
        try
        {
            Throw("a query of dirty bits", space.QueryDirty(range, bitmap));
        }
        catch (ObjectDisposedException e)
        {
            throw DeviceCalls.Closed(e);
        }
    }

    /// <inheritdoc/>
    public void UnmapWithDirty(IovaPages mapping, Span<ulong> bitmap)
    {
        try
        {
            note(space.UnmapWithDirty(mapping, bitmap));
        }
        catch (ObjectDisposedException e)
        {
            throw DeviceCalls.Closed(e);
        }
    }

    private static Errno Guarded(Func<Errno> call)
    {
        try
        {
            return call();
        }
        catch (ObjectDisposedException e)
        {
            throw DeviceCalls.Closed(e);
        }
    }

    private static void Throw(string what, Errno errno)
    {
        if (errno != Errno.None)
            throw new DeviceRefusedException(what, errno);
    }
}
