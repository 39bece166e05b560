using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>For a device whose writes nothing follows. A blocker keeps migrations away; one that comes all the same fails before it begins.</summary>
internal sealed class NoDirtySource(string device) : IDeviceDirtySource
{
    /// <inheritdoc/>
    public string Id => device;

    /// <inheritdoc/>
    public void Start() => throw new DirtyLogLostException($"{device}: nothing tells what the device writes");

    /// <inheritdoc/>
    public DirtySyncReport Sync(bool final) => throw new DirtyLogLostException($"{device}: nothing tells what the device writes");

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <inheritdoc/>
    public void Unmapped(ReadOnlySpan<Mapping> removed)
    {
    }

    /// <inheritdoc/>
    public DirtyTrackingReport Explain(DirtyTrackingMode mode) => new() { Device = device, Mode = mode, Source = DirtySourceKind.None };
}
