using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>Migration of a device's own state (vfio.h, VFIO_DEVICE_FEATURE_MIGRATION).</summary>
internal interface IDeviceMigration
{
    /// <summary>What it offers.</summary>
    MigrationSupport GetMigrationSupport();

    /// <summary>VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, get.</summary>
    DeviceMigrationState GetMigrationState();

    /// <summary>VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, set; complete on return.</summary>
    void SetMigrationState(DeviceMigrationState state);

    /// <summary>Next chunk of saved state; 0: none for now (PRE_COPY) or the end (STOP_COPY).</summary>
    int ReadMigrationData(Span<byte> destination);

    /// <summary>Takes saved state in RESUMING.</summary>
    void WriteMigrationData(ReadOnlySpan<byte> data);

    /// <summary>VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, or null when the device cannot say.</summary>
    ulong? GetStopCopySize();
}
