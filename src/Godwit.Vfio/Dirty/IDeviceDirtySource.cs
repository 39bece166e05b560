using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>One way of knowing what a device writes; chosen for each device by itself, merged in the migration bitmap.</summary>
internal interface IDeviceDirtySource : IDirtyTracker, IUnmapObserver
{
    /// <summary>How it goes, for <paramref name="mode"/> as the user asked. Any thread.</summary>
    DirtyTrackingReport Explain(DirtyTrackingMode mode);
}
