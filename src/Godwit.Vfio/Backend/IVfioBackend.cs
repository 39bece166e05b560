using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>
/// One attached device as the room sees it, whatever is behind: a vfio-user server (<c>User/</c>) or a kernel driver. Members may be called
/// from any thread. What the device refuses comes as <see cref="DeviceRefusedException"/>, a device that has gone as
/// <see cref="DeviceLostException"/>.
/// </summary>
internal interface IVfioBackend : IDeviceAccess, IDmaMapper, IDeviceMigration, IDmaLog, IDisposable
{
    /// <summary>Where it is attached, for messages.</summary>
    string Address { get; }

    /// <summary>Completes when the device has gone, with the reason.</summary>
    Task<string> Lost { get; }

    /// <summary>Dirty bits of the host's IOMMU for the device's mappings; null when there are none (vfio-user: the device is no hardware).</summary>
    IHostIommu? HostIommu => null;

    /// <summary>
    /// Without Bus Master Enable it does no DMA, and what it had written before is in memory (PCI Express 5.0, 7.5.1.1.3): a function on a bus. In a server the bit is one of a table,
    /// and nothing tells whether it looks at it.
    /// </summary>
    bool HeldByBusMaster => false;

    /// <summary>Before anything is mapped: throws when the device can never reach what the guest may use. Devices that reach everything need not look.</summary>
    /// <exception cref="VfioAttachException">It cannot.</exception>
    void CheckReach(in GuestReach guest)
    {
    }

    /// <summary>After guest memory has been mapped for the first time: throws when the device cannot work with what was refused.</summary>
    /// <exception cref="VfioAttachException">It cannot.</exception>
    void CheckMapped(in GuestReach guest)
    {
    }

    /// <summary>Adds the reasons against migration that lie in how the device is attached, beside those that the other members tell.</summary>
    /// <param name="id">The device's id.</param>
    /// <param name="blockers">Where to.</param>
    void AddBlockers(string id, List<MigrationBlocker> blockers)
    {
    }

    /// <summary>
    /// Takes the device out of service at once: it loses all DMA mappings. For one that cannot be trusted with guest memory any more.
    /// </summary>
    void CutOff(string reason);
}
